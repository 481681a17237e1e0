"""How other libraries name the weights of SegFormer: one table each, and what reads them."""

from .rules import Format, Rule
from .tables import NVLABS, SMP, TRANSFORMERS, TRANSFORMERS_5

__all__ = ['NVLABS', 'SMP', 'TRANSFORMERS', 'TRANSFORMERS_5', 'Format', 'Rule']
