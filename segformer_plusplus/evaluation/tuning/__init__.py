"""Finding the strategies, ratios and strides that suit a model, its data and a device."""

from ...libraries import naming_what_is_missing

with naming_what_is_missing(__name__):
    from .call import tune
    from .points import Budget, Check, Failure, Point, Rejection
    from .run import Limits, TuneResult, tune_fidelity
    from .space import Space, default_space, read_space

__all__ = [
    'Budget',
    'Check',
    'Failure',
    'Limits',
    'Point',
    'Rejection',
    'Space',
    'TuneResult',
    'default_space',
    'read_space',
    'tune',
    'tune_fidelity',
]
