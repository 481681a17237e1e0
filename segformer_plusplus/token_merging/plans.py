"""Holds the plans that strategies make: groups by an index, and all cells of the grid.

Means are accumulated in fp32 for half precision inputs: a group may hold hundreds of tokens, and
a bf16 sum of ones stops growing at 256.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.merging import group_means
from ..kernels.runtime import runs_on
from .base import Grid, MergePlan, tokens_to_image


class SlotPlan(MergePlan):
    """Merges groups by one index per token: ``slot[b, n]`` is the merged token that n goes into.

    Merging is one scattered add and a division by the group sizes, unmerging one gather.

    Attributes:
        index: (B * N,), which of all B * M merged tokens of the batch each token goes into, so that
            each operation is a single call on (B * M, C).

    Args:
        slot: (B, N) integers in [0, num_merged).
        num_merged: M; every slot is used by at least one token.
    """

    def __init__(self, slot: Tensor, num_merged: int) -> None:
        batch, num_tokens = slot.shape
        super().__init__(num_tokens, num_merged)
        self._batch = batch
        self.index = _flat_index(slot, num_merged)
        sizes = slot.new_zeros(batch * num_merged)
        sizes.scatter_add_(0, self.index, torch.ones_like(self.index))
        self._sizes = sizes.view(batch, num_merged)

    @classmethod
    def of_index(cls, index: Tensor, sizes: Tensor) -> SlotPlan:
        """Makes a plan of what is known already.

        Args:
            index: (B, N) of the numbers of the attribute ``index``.
            sizes: (B, M), how often each of these is in it.
        """
        plan = cls.__new__(cls)
        MergePlan.__init__(plan, index.shape[1], sizes.shape[1])
        plan._batch, plan.index, plan._sizes = index.shape[0], index.flatten(), sizes
        return plan

    def fits(self, tokens: Tensor) -> bool:
        """Tells whether a kernel may go by the index in these tokens (B, N, C)."""
        return type(self) is SlotPlan and tokens.shape[:2] == (self._batch, self.num_tokens)

    def merge(self, tokens: Tensor) -> Tensor:
        # what does not fit is for PyTorch to refuse
        means = group_means if runs_on(tokens) and self.fits(tokens) else group_means.reference
        return means(tokens, self.index, self._sizes)

    def unmerge(self, tokens: Tensor) -> Tensor:
        flat = tokens.flatten(0, 1).index_select(0, self.index)
        return flat.unflatten(0, (self._batch, self.num_tokens))

    def sizes(self) -> Tensor:
        return self._sizes


def _flat_index(index: Tensor, length: int) -> Tensor:
    """Turns indices (B, M) into ``length`` tokens of each image into those (B * M) of a batch."""
    # len() would fix the batch of a graph that is traced
    offset = torch.arange(index.shape[0], device=index.device).unsqueeze(1) * length
    return (index + offset).flatten()


class CellPlan(MergePlan):
    """Merges all rectangular cells of the grid; cells at the border may be smaller.

    Args:
        grid: (H, W) in tokens.
        stride: rows and columns of a cell, at least 1.
        device: where ``sizes`` lives.
    """

    def __init__(self, grid: Grid, stride: tuple[int, int], device: torch.device) -> None:
        self._grid = grid
        self._stride = min(stride[0], grid[0]), min(stride[1], grid[1])
        self._cells = -(-grid[0] // self._stride[0]), -(-grid[1] // self._stride[1])
        self._device = device
        super().__init__(grid[0] * grid[1], self._cells[0] * self._cells[1])

    def merge(self, tokens: Tensor) -> Tensor:
        image = tokens_to_image(tokens, self._grid)
        pooled = F.avg_pool2d(image, self._stride, ceil_mode=True, count_include_pad=False)
        return pooled.flatten(2).transpose(1, 2)

    def unmerge(self, tokens: Tensor) -> Tensor:
        batch, _, channels = tokens.shape
        (rows, columns), (sy, sx) = self._cells, self._stride
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
