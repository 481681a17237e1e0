"""Switches token merging on and off on a live model of mmseg, Transformers, SMP or this package."""

from .backbones import PatchableBackbone, apply_token_merging, find_backbones, remove_token_merging
from .graphs import apply_cuda_graphs, remove_cuda_graphs

__all__ = [
    'PatchableBackbone',
    'apply_cuda_graphs',
    'apply_token_merging',
    'find_backbones',
    'remove_cuda_graphs',
    'remove_token_merging',
]
