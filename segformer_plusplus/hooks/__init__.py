"""Hooks for mmengine's Runner. All but the progress bar and the merge map come by themselves."""

from .checkpoint import DurableCheckpointHook
from .defaults import with_our_hooks
from .merge_map import MergeMapHook
from .nonfinite import StopOnNaN
from .preemption import PreemptionHook
from .progress import ProgressBarHook
from .seeding import StepSeedHook
from .skipped import SkippedSamplesHook

__all__ = [
    'DurableCheckpointHook',
    'MergeMapHook',
    'PreemptionHook',
    'ProgressBarHook',
    'SkippedSamplesHook',
    'StepSeedHook',
    'StopOnNaN',
    'with_our_hooks',
]
