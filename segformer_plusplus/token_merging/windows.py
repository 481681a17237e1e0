"""Merges inside fixed windows of the grid: all of them, or those whose tokens are alike.

Sources: Segformer++ (Kienzle et al., MIPR 2024), where 2x2 cells of queries are averaged, whatever
they look like; for the windows that are alike the conditional local average pooling of ALGM
(Norouzi et al., CVPR 2024), the first of its two steps, written from the paper's description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TokenMergingError
from .base import (
    TOKEN_MERGERS,
    Grid,
    IdentityPlan,
    MergePlan,
    TokenMerger,
    check_grid,
    check_stride,
    tokens_to_image,
)
from .bipartite import check_ratio_2d
from .plans import CellPlan, WindowPlan


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


@TOKEN_MERGERS.register_module()
class LocalWindowMerging(TokenMerger):
    """Averages the windows whose tokens are most alike; all other tokens stay.

    How alike the tokens of a window are is the mean cosine of all its pairs. Unlike a matching, it
    takes a number of operations that grows with the tokens, not with their square. What a border
    leaves of a window is not merged.

    Args:
        ratio: share of all tokens that is merged away, in [0, 1 - 1 / (rows * columns)]: as many
            windows are merged as it takes.
        stride: rows and columns of a window; an int for both.

    Raises:
        TokenMergingError: a value out of range.
    """

    def __init__(self, ratio: float, stride: int | tuple[int, int] = 2) -> None:
        self.stride = check_stride(stride, 'LocalWindowMerging')
        self.ratio = check_ratio_2d(ratio, self.stride, 'LocalWindowMerging')

    def plan(self, tokens: Tensor, grid: Grid) -> MergePlan:
        check_grid(tokens, grid)
        rows, columns = grid[0] // self.stride[0], grid[1] // self.stride[1]
        size = self.stride[0] * self.stride[1]
        if rows * columns == 0 or size == 1:
            return IdentityPlan(tokens.shape[1], tokens.device)
        count = min(int(tokens.shape[1] * self.ratio) // (size - 1), rows * columns)
        if count == 0:
            return IdentityPlan(tokens.shape[1], tokens.device)
        similarity = window_similarity(tokens, grid, self.stride).flatten(1)
        windows = similarity.topk(count, dim=1, sorted=False).indices
        return WindowPlan(windows, grid, self.stride)


@torch.no_grad()
def window_similarity(tokens: Tensor, grid: Grid, stride: tuple[int, int]) -> Tensor:
    """Computes the mean cosine of all pairs of tokens in every whole window.

    The sum of all pairs of n unit vectors is that of the square of their sum, less n for the pairs
    of a vector with itself; a token of all zeros has similarity 0 to every other one.

    Args:
        tokens: (B, N, C).
        grid: (H, W) with H * W == N.
        stride: rows and columns of a window, together more than one token.

    Returns:
        (B, H // rows, W // columns), in float32 at least.
    """
    count = stride[0] * stride[1]
    metric = tokens if tokens.dtype == torch.float64 else tokens.float()
    unit = F.normalize(metric, dim=-1)
    mean = F.avg_pool2d(tokens_to_image(unit, grid), stride)
    # n squared times the square of the mean; a unit vector's square is 1, that of zeros 0
    own = F.avg_pool2d(unit.square().sum(-1).view(-1, 1, *grid), stride).squeeze(1)
    return (count * mean.square().sum(1) - own) / (count - 1)  # no product, nothing to autocast
