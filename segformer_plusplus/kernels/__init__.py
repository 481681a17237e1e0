"""Kernels for GPUs, in Triton, each an operator of PyTorch beside what it replaces; torch alone.

Importing a kernel needs no Triton and no GPU; ``runtime.runs_on`` says where one is taken.
"""

from .runtime import enabled, is_enabled

__all__ = ['enabled', 'is_enabled']
