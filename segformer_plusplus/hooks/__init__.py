"""Hooks for mmengine's Runner. Those but the progress bar come with ``StrictRunner`` by itself."""

from .checkpoint import DurableCheckpointHook
from .defaults import with_our_hooks
from .nonfinite import StopOnNaN
from .preemption import PreemptionHook
from .progress import ProgressBarHook
from .seeding import StepSeedHook
from .skipped import SkippedSamplesHook

__all__ = [
    'DurableCheckpointHook',
    'PreemptionHook',
    'ProgressBarHook',
    'SkippedSamplesHook',
    'StepSeedHook',
    'StopOnNaN',
    'with_our_hooks',
]
