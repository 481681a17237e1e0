"""Offers a page in the browser to try token merging: what it computes, and how it looks."""

from ..libraries import naming_what_is_missing

with naming_what_is_missing(__name__):
    from .comparison import MAX_PIXELS, Comparer, Outcome, Result
    from .opening import open_comparer

__all__ = ['MAX_PIXELS', 'Comparer', 'Outcome', 'Result', 'open_comparer']
