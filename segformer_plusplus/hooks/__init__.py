"""Hooks for mmengine's Runner."""

from .progress import ProgressBarHook

__all__ = ['ProgressBarHook']
