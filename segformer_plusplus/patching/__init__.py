"""Token merging on a live model of mmseg, Transformers, SMP or this package, and off again."""

from .apply import apply_token_merging, remove_token_merging
from .backbones import PatchableBackbone, find_backbones

__all__ = [
    'PatchableBackbone',
    'apply_token_merging',
    'find_backbones',
    'remove_token_merging',
]
