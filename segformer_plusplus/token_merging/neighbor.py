"""Averages neighbours on the grid, whatever they look like (Kienzle et al., MIPR 2024)."""

from __future__ import annotations

from torch import Tensor

from ..errors import TokenMergingError
from .base import TOKEN_MERGERS, Grid, MergePlan, TokenMerger, check_grid, check_stride
from .plans import CellPlan


@TOKEN_MERGERS.register_module()
class NeighborMerging2d(TokenMerger):
    """Averages the cells of the grid; cells at the border hold what is left.

    Args:
        stride: rows and columns of a cell; an int for both.
    """

    def __init__(self, stride: int | tuple[int, int] = 2) -> None:
        self.stride = check_stride(stride, 'NeighborMerging2d')

    def plan(self, tokens: Tensor, grid: Grid) -> MergePlan:
        check_grid(tokens, grid)
        return CellPlan(grid, self.stride, tokens.device)


@TOKEN_MERGERS.register_module()
class NeighborMerging1d(TokenMerger):
    """Averages runs of consecutive tokens of the flattened grid; the last run may be shorter.

    Args:
        stride: tokens in a run.
    """

    def __init__(self, stride: int = 2) -> None:
        if not isinstance(stride, int):
            raise TokenMergingError(f'NeighborMerging1d: stride={stride!r} is not an integer')
        self.stride = check_stride(stride, 'NeighborMerging1d')[0]

    def plan(self, tokens: Tensor, grid: Grid) -> MergePlan:
        check_grid(tokens, grid)
        return CellPlan((1, tokens.shape[1]), (1, self.stride), tokens.device)
