"""Hooks for mmengine's Runner."""

from .merge_map import MergeMapHook
from .progress import ProgressBarHook

__all__ = ['MergeMapHook', 'ProgressBarHook']
