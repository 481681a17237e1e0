"""Measures what presets cost a trained model in accuracy, and what they gain in speed."""

import warnings

from ...libraries import naming_what_is_missing

with naming_what_is_missing(__name__):
    from ..results import MEASURES, Measure, Row
    from .base import Fidelity
    from .measuring import measure_fidelity
    from .opening import open_fidelity


def __getattr__(name: str) -> object:
    if name == 'FidelityRow':
        warnings.warn('FidelityRow is Row now', FutureWarning, stacklevel=2)
        return Row
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


__all__ = ['MEASURES', 'Fidelity', 'Measure', 'Row', 'measure_fidelity', 'open_fidelity']
