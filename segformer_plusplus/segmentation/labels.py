"""The label map of low-resolution logits, without resizing all logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 4096
"""Cells whose logits are interpolated at a time: they stay in the cache of a CPU."""


def label_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """``F.interpolate(logits, size, mode='bilinear', align_corners=False).argmax(dim=1)``.

    A pixel lies in a cell between four neighbouring logits. Where all four have their maximum in
    the same class, so has every mean of them, i.e. every pixel of the cell, which is filled; only
    the cells on the borders between classes are interpolated. Differs by rounding alone, where two
    classes have equal logits.

    Args:
        logits: (B, K, h, w) with K > 1.
        size: H and W.

    Returns:
        (B, H, W) int64.
    """
    ratio = _ratio(logits, size)
    if ratio is None:
        return F.interpolate(logits, size, mode='bilinear', align_corners=False).argmax(dim=1)
    corners = F.pad(logits.argmax(dim=1).to(torch.uint8), (1, 1, 1, 1), mode='replicate')
    first = corners[:, :-1, :-1]
    uniform = (
        (first == corners[:, 1:, :-1])
        & (first == corners[:, :-1, 1:])
        & (first == corners[:, 1:, 1:])
    )
    # (B, h + 1, w + 1, ratio, ratio): half a cell sticks out on every side
    cells = first[..., None, None].repeat(1, 1, 1, ratio, ratio)
    _fill_borders(cells, ~uniform, logits)
    batch, rows, columns = first.shape
    labels = cells.transpose(2, 3).reshape(batch, rows * ratio, columns * ratio)
    half = ratio // 2
    return labels[:, half : half + size[0], half : half + size[1]].long()


def _ratio(logits: Tensor, size: tuple[int, int]) -> int | None:
    """The one whole, even ratio of both sides, or None."""
    ratio = size[0] // logits.shape[2]
    fits = size == (logits.shape[2] * ratio, logits.shape[3] * ratio)
    return ratio if fits and ratio >= 2 and ratio % 2 == 0 and logits.shape[1] <= 256 else None


def _fill_borders(cells: Tensor, border: Tensor, logits: Tensor) -> None:
    """Interpolate the logits in the cells of ``border`` and write their labels."""
    ratio = cells.shape[-1]
    height, width = logits.shape[2:]
    grid = logits.permute(0, 2, 3, 1).contiguous()
    share = (torch.arange(ratio, device=logits.device) + 0.5) / ratio
    across = share.to(logits.dtype)[:, None]
    down = across[:, None]
    for part in border.nonzero().split(CELLS):
        image, row, column = part.unbind(1)
        top, bottom = (row - 1).clamp(min=0), row.clamp(max=height - 1)
        left, right = (column - 1).clamp(min=0), column.clamp(max=width - 1)
        lines = [
            torch.lerp(grid[image, y, left][:, None], grid[image, y, right][:, None], across)
            for y in (top, bottom)
        ]  # each (n, ratio, K)
        values = torch.lerp(lines[0][:, None], lines[1][:, None], down)
        cells[image, row, column] = values.argmax(dim=-1).to(cells.dtype)
