"""Pictures of token merging: which tokens were merged, and what that changed."""

from .drawing import draw
from .merge_map import MergeMap, MergeMaps, merge_map
from .recording import PlanRecord, record_plans

__all__ = ['MergeMap', 'MergeMaps', 'PlanRecord', 'draw', 'merge_map', 'record_plans']
