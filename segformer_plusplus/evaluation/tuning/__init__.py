"""Finds the strategies, ratios and strides that suit a model, its data and a device."""

from ...libraries import naming_what_is_missing

with naming_what_is_missing(__name__):
    from .run import Limits, Options, tune, tune_fidelity
    from .selection import Budget, Check, Rejection, TuneResult
    from .space import Space, default_space, read_space
    from .study import Failure, Point

__all__ = [
    'Budget',
    'Check',
    'Failure',
    'Limits',
    'Options',
    'Point',
    'Rejection',
    'Space',
    'TuneResult',
    'default_space',
    'read_space',
    'tune',
    'tune_fidelity',
]
