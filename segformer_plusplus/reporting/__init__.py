"""Tables and pictures of results."""

from .comparison import draw_comparison
from .paper import PAPER_TABLES
from .skeletons import PosedPerson, draw_skeletons
from .tables import Row, StrategyTable

__all__ = [
    'PAPER_TABLES',
    'PosedPerson',
    'Row',
    'StrategyTable',
    'draw_comparison',
    'draw_skeletons',
]
