"""What strategies cost a trained model in accuracy, and what they gain in speed."""

from .base import MEASURES, Fidelity, Measure

__all__ = ['MEASURES', 'Fidelity', 'Measure']
