"""Measures what presets cost a trained model in accuracy, and what they gain in speed."""

from ...libraries import naming_what_is_missing

with naming_what_is_missing(__name__):
    from ..results import MEASURES, Measure, Row
    from .base import Fidelity
    from .measuring import measure_fidelity
    from .opening import open_fidelity

__all__ = ['MEASURES', 'Fidelity', 'Measure', 'Row', 'measure_fidelity', 'open_fidelity']
