"""Token merging on a live model of mmseg, Transformers, SMP or this package, and off again."""

from .backbones import PatchableBackbone, apply_token_merging, find_backbones, remove_token_merging

__all__ = [
    'PatchableBackbone',
    'apply_token_merging',
    'find_backbones',
    'remove_token_merging',
]
