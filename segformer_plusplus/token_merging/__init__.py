"""Token merging: strategies, the plans they make, presets. Needs torch, tomesd and a registry."""

from .base import TOKEN_MERGERS, IdentityPlan, MergePlan, TokenMerger
from .bipartite import BipartiteSoftMatching1d, BipartiteSoftMatching2d, TomesdMatching
from .neighbor import NeighborMerging1d, NeighborMerging2d
from .presets import PRESETS, read_tome_cfg
from .spec import (
    InputDownsampling,
    StageMerging,
    TokenMerging,
    TokenMergingConfig,
    build_token_merging,
)
from .windows import LocalWindowMerging

__all__ = [
    'PRESETS',
    'TOKEN_MERGERS',
    'BipartiteSoftMatching1d',
    'BipartiteSoftMatching2d',
    'IdentityPlan',
    'InputDownsampling',
    'LocalWindowMerging',
    'MergePlan',
    'NeighborMerging1d',
    'NeighborMerging2d',
    'StageMerging',
    'TokenMerger',
    'TokenMerging',
    'TokenMergingConfig',
    'TomesdMatching',
    'build_token_merging',
    'read_tome_cfg',
]
