"""What strategies cost a trained model in accuracy, and what they gain in speed."""

from ...libraries import naming_what_is_missing

with naming_what_is_missing(__name__):
    from .base import MEASURES, Fidelity, Measure
    from .measuring import FidelityRow, measure_fidelity
    from .opening import open_fidelity

__all__ = [
    'MEASURES',
    'Fidelity',
    'FidelityRow',
    'Measure',
    'measure_fidelity',
    'open_fidelity',
]
