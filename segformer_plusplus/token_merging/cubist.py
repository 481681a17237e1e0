"""Merging that keeps rows and columns: what is left is a smaller rectangular grid.

Source: CubistMerge (Gong and Lis, 2025). Written from the paper's description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import TOKEN_MERGERS, Grid, IdentityPlan, MergePlan, TokenMerger, check_grid, check_ratio
from .plans import SlotPlan


@TOKEN_MERGERS.register_module()
class CubistMerging(TokenMerger):
    """Every row loses the same number of tokens, then every column; neighbours merge, order stays.

    In a row, every second token is a source and goes into the more similar one of its two
    neighbours; the most similar sources do so. The same follows along the columns of what is left.
    Merged tokens are means, or after the paper the entry of largest magnitude of each channel.

    Args:
        ratio: share of the tokens of a row, and of a column, that is merged away, in [0, 0.5].
        representation: 'mean' or 'max_magnitude'.
    """

    def __init__(self, ratio: float, representation: str = 'mean') -> None:
        reason = 'every second token of a row is a source'
        self.ratio = check_ratio(ratio, 0.5, reason, 'CubistMerging')
        self.representation = representation

    def plan(self, tokens: Tensor, grid: Grid) -> MergePlan:
        check_grid(tokens, grid)
        across, down = int(grid[1] * self.ratio), int(grid[0] * self.ratio)
        if not across and not down:
            return IdentityPlan(tokens.shape[1], tokens.device)
        with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
            metric = tokens if tokens.dtype == torch.float64 else tokens.float()
            image = metric.unflatten(1, grid)
            column = _merge_lines(image, across)  # (B, H, W) in [0, W - across)
            width = grid[1] - across
            flat = column.flatten(0, 1)
            narrow = SlotPlan(flat, width).merge(image.flatten(0, 1)).unflatten(0, (-1, grid[0]))
            row = _merge_lines(narrow.transpose(1, 2), down)  # (B, width, H)
        height = grid[0] - down
        slot = row.transpose(1, 2).gather(2, column) * width + column
        return SlotPlan(slot.flatten(1), height * width, reduce=self.representation)


def _merge_lines(lines: Tensor, count: int) -> Tensor:
    """Where each token of every line goes when ``count`` of them go into a neighbour.

    Args:
        lines: (B, L, N, C).
        count: at most N // 2.

    Returns:
        (B, L, N) integers in [0, N - count), rising along the line.
    """
    unit = F.normalize(lines, dim=-1)
    edge = (unit[:, :, 1:] * unit[:, :, :-1]).sum(-1)  # (B, L, N - 1): of n and n + 1
    number = lines.shape[2]
    if count == 0:
        return torch.arange(number, device=lines.device).expand(edge.shape[:2] + (number,))
    # token 1, 3, 5, ... go left by edge n - 1, or right by edge n
    left = edge[:, :, 0::2]
    right = F.pad(edge[:, :, 1::2], (0, left.shape[2] - edge[:, :, 1::2].shape[2]), value=-2.0)
    best, side = torch.stack([left, right], dim=-1).max(-1)
    chosen = best.topk(count, dim=2, sorted=False).indices
    gone = torch.zeros(*edge.shape[:2], number + 1, dtype=torch.long, device=lines.device)
    gone.scatter_(2, 2 * chosen + side.gather(2, chosen) + 1, 1)  # the later token of the edge
    return torch.arange(number, device=lines.device) - gone[:, :, :number].cumsum(2)
