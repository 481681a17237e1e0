"""Holds strategies of token merging, the plans that they make, and presets."""

from .base import TOKEN_MERGERS, IdentityPlan, MergePlan, TokenMerger
from .bipartite import BipartiteSoftMatching1d, BipartiteSoftMatching2d, TomesdMatching
from .config import (
    BASELINE,
    PRESETS,
    InputDownsampling,
    StageMerging,
    TokenMerging,
    TokenMergingConfig,
    build_token_merging,
    read_tome_cfg,
)
from .neighbor import NeighborMerging1d, NeighborMerging2d

__all__ = [
    'BASELINE',
    'PRESETS',
    'TOKEN_MERGERS',
    'BipartiteSoftMatching1d',
    'BipartiteSoftMatching2d',
    'IdentityPlan',
    'InputDownsampling',
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
