"""A page in the browser to try token merging: what it computes, and how it looks."""

from .comparison import MAX_PIXELS, Comparer, Result

__all__ = ['MAX_PIXELS', 'Comparer', 'Result']
