"""Switches token merging on and off on a live model of mmseg, Transformers, SMP or this package."""

from .backbones import PatchableBackbone, apply_token_merging, find_backbones, remove_token_merging

__all__ = [
    'PatchableBackbone',
    'apply_token_merging',
    'find_backbones',
    'remove_token_merging',
]
