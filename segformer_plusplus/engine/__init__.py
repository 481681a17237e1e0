"""Running models: a strict Runner, and what the command line tools share."""

from .benchmarking import Timing, measure, peak_memory
from .complexity import count_flops, count_parameters
from .runner import StrictRunner

__all__ = [
    'StrictRunner',
    'Timing',
    'count_flops',
    'count_parameters',
    'measure',
    'peak_memory',
]
