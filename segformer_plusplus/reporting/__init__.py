"""Tables and pictures of results."""

from .comparison import draw_comparison
from .paper import PAPER_TABLES
from .tables import Row, StrategyTable

__all__ = ['PAPER_TABLES', 'Row', 'StrategyTable', 'draw_comparison']
