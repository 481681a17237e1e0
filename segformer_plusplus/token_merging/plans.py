"""Plans shared by the strategies: groups given by an index, and groups that are cells of the grid.

Means are accumulated in fp32 for half precision inputs: a group may hold hundreds of tokens, and
a bf16 sum of ones stops growing at 256.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Grid, MergePlan


class SlotPlan(MergePlan):
    """Groups given by one index per token: ``slot[b, n]`` is the merged token that n goes into.

    Merging is one scattered add and a division by the group sizes, unmerging one gather.

    Args:
        slot: (B, N) integers in [0, num_merged).
        num_merged: M; a slot that no token uses is padding, of size 0.
        reduce: how a group becomes one token. 'mean'; 'mlerp', the mean with the largest norm of the
            group (ToFu, Kim et al., WACV 2024); 'max_magnitude', of each channel the entry of the
            largest magnitude (CubistMerge, Gong and Lis, 2025).
    """

    def __init__(
        self, slot: Tensor, num_merged: int, reduce: str = 'mean', padded: bool = False
    ) -> None:
        batch, num_tokens = slot.shape
        super().__init__(num_tokens, num_merged)
        self.padded = padded
        self._batch = batch
        self._reduce = reduce
        # one flat index over the batch, so that each operation is a single call on (B * M, C)
        offset = torch.arange(batch, device=slot.device).unsqueeze(1) * num_merged
        self._index = (slot + offset).flatten()
        self._sizes = slot.new_zeros(batch * num_merged)
        self._sizes.scatter_add_(0, self._index, torch.ones_like(self._index))

    def merge(self, tokens: Tensor) -> Tensor:
        flat = tokens.flatten(0, 1)
        wide = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
        merged = REDUCTIONS[self._reduce](wide, self._index, self._sizes)
        return merged.to(tokens.dtype).unflatten(0, (self._batch, self.num_merged))

    def unmerge(self, tokens: Tensor) -> Tensor:
        flat = tokens.flatten(0, 1).index_select(0, self._index)
        return flat.unflatten(0, (self._batch, self.num_tokens))

    def sizes(self) -> Tensor:
        return self._sizes.view(self._batch, self.num_merged)


def _mean(tokens: Tensor, index: Tensor, sizes: Tensor) -> Tensor:
    total = tokens.new_zeros(len(sizes), tokens.shape[1]).index_add(0, index, tokens)
    return total / sizes.clamp(min=1).unsqueeze(1).to(total.dtype)


def _mlerp(tokens: Tensor, index: Tensor, sizes: Tensor) -> Tensor:
    norm = tokens.norm(dim=1)
    largest = norm.new_zeros(len(sizes)).scatter_reduce(0, index, norm, 'amax')
    return F.normalize(_mean(tokens, index, sizes), dim=1) * largest.unsqueeze(1)


def _max_magnitude(tokens: Tensor, index: Tensor, sizes: Tensor) -> Tensor:
    index = index.unsqueeze(1).expand_as(tokens)
    zeros = tokens.new_zeros(len(sizes), tokens.shape[1])
    high = zeros.scatter_reduce(0, index, tokens, 'amax')
    low = zeros.scatter_reduce(0, index, tokens, 'amin')
    return torch.where(high >= -low, high, low)


REDUCTIONS = {'mean': _mean, 'mlerp': _mlerp, 'max_magnitude': _max_magnitude}


class WindowPlan(MergePlan):
    """Some windows of the grid become one token each, their mean; all other tokens stay.

    The merged windows come first, then the other tokens in rising order. Nothing is scattered:
    merging is a pooling and two gathers, unmerging one gather.

    Args:
        windows: (B, K) which of the whole windows, row by row.
        grid: (H, W) in tokens.
        stride: rows and columns of a window.
    """

    def __init__(self, windows: Tensor, grid: Grid, stride: tuple[int, int]) -> None:
        batch, count = windows.shape
        self._size = stride[0] * stride[1]
        num_tokens = grid[0] * grid[1]
        super().__init__(num_tokens, num_tokens - count * (self._size - 1))
        self._grid, self._stride, self._batch, self._count = grid, stride, batch, count
        rows, columns = grid[0] // stride[0], grid[1] // stride[1]
        self._num_windows = rows * columns
        # the number of the merged window that a token lies in, or -1
        number = windows.new_full((batch, rows * columns), -1)
        number.scatter_(1, windows, torch.arange(count, device=windows.device).expand(batch, -1))
        image = number.view(batch, rows, columns)
        image = image.repeat_interleave(stride[0], 1).repeat_interleave(stride[1], 2)
        border = (0, grid[1] - columns * stride[1], 0, grid[0] - rows * stride[0])
        inside = F.pad(image, border, value=-1).flatten(1)
        alone = inside < 0
        rank = alone.cumsum(1) - 1
        slot = torch.where(alone, rank + count, inside)
        # what lies in a window is written past the end, and cut off
        num_alone = num_tokens - count * self._size
        tokens = torch.arange(num_tokens, device=windows.device).expand(batch, -1)
        kept = windows.new_empty(batch, num_alone + 1)
        kept.scatter_(1, torch.where(alone, rank, num_alone), tokens)
        self._kept = _flat_index(kept[:, :num_alone], num_tokens)
        self._slot = _flat_index(slot, self.num_merged)
        self._windows = _flat_index(windows, self._num_windows)

    def merge(self, tokens: Tensor) -> Tensor:
        image = tokens.unflatten(1, self._grid).permute(0, 3, 1, 2)
        pooled = F.avg_pool2d(image, self._stride).permute(0, 2, 3, 1).flatten(0, 2)
        parts = pooled.index_select(0, self._windows), tokens.flatten(0, 1)[self._kept]
        return torch.cat([part.unflatten(0, (self._batch, -1)) for part in parts], dim=1)

    def unmerge(self, tokens: Tensor) -> Tensor:
        flat = tokens.flatten(0, 1).index_select(0, self._slot)
        return flat.unflatten(0, (self._batch, self.num_tokens))

    def sizes(self) -> Tensor:
        sizes = torch.ones(1, self.num_merged, dtype=torch.long, device=self._slot.device)
        sizes[:, : self._count] = self._size
        return sizes


def _flat_index(index: Tensor, length: int) -> Tensor:
    """(B, M) indices into ``length`` tokens of each image -> (B * M) into those of all."""
    offset = torch.arange(len(index), device=index.device).unsqueeze(1) * length
    return (index + offset).flatten()


class CellPlan(MergePlan):
    """Groups that are rectangular cells of the grid; cells at the border may be smaller.

    Args:
        grid: (H, W) in tokens.
        stride: rows and columns of a cell, at least 1.
        device: where :meth:`sizes` lives.
    """

    def __init__(
        self, grid: Grid, stride: tuple[int, int], device: torch.device, unmerge: str = 'nearest'
    ) -> None:
        self._unmerge = unmerge
        self._grid = grid
        self._stride = min(stride[0], grid[0]), min(stride[1], grid[1])
        self._cells = -(-grid[0] // self._stride[0]), -(-grid[1] // self._stride[1])
        self._device = device
        super().__init__(grid[0] * grid[1], self._cells[0] * self._cells[1])

    def merge(self, tokens: Tensor) -> Tensor:
        image = tokens.unflatten(1, self._grid).permute(0, 3, 1, 2)
        pooled = F.avg_pool2d(image, self._stride, ceil_mode=True, count_include_pad=False)
        return pooled.flatten(2).transpose(1, 2)

    def unmerge(self, tokens: Tensor) -> Tensor:
        batch, _, channels = tokens.shape
        (rows, columns), (sy, sx) = self._cells, self._stride
        if self._unmerge == 'bilinear':
            image = tokens.unflatten(1, self._cells).permute(0, 3, 1, 2)
            image = F.interpolate(image, (rows * sy, columns * sx), mode='bilinear')
            image = image[:, :, : self._grid[0], : self._grid[1]].permute(0, 2, 3, 1)
            return image.flatten(1, 2)
        image = tokens.reshape(batch, rows, 1, columns, 1, channels)
        image = image.expand(batch, rows, sy, columns, sx, channels)
        image = image.reshape(batch, rows * sy, columns * sx, channels)
        return image[:, : self._grid[0], : self._grid[1]].reshape(batch, self.num_tokens, channels)

    def sizes(self) -> Tensor:
        per_axis = [
            torch.full((cells,), step, device=self._device).clamp_(
                max=torch.arange(length, 0, -step, device=self._device)
            )
            for cells, step, length in zip(self._cells, self._stride, self._grid, strict=True)
        ]
        return torch.outer(*per_axis).view(1, -1)
