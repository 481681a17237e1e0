"""Mix-FFN of SegFormer: the MLP with a depthwise convolution that tells tokens where they are."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer
from torch import Tensor, nn

from ..token_merging.base import Grid

HIDDEN = 2**20
"""Hidden activations that are worked on at a time on a CPU: they stay in its cache."""


class MixFFN(nn.Module):
    """Expand, 3x3 depthwise convolution, activation, reduce (SegFormer, Eq. 3), on tokens.

    The 1x1 convolutions run as linear layers on channels-last tokens; the modules that hold their
    weights are convolutions so that the state dict is mmseg's.

    Args:
        embed_dims: C.
        feedforward_channels: C' of the hidden layer.
        act_cfg: the activation.
        ffn_drop: dropout after the activation and at the end.
        in_rows: for inference on a CPU, work on a few rows of the grid at a time; exact.
    """

    def __init__(
        self,
        embed_dims: int,
        feedforward_channels: int,
        act_cfg: dict[str, Any],
        ffn_drop: float,
        in_rows: bool = True,
    ) -> None:
        super().__init__()
        self.in_rows = in_rows
        hidden = feedforward_channels
        drop = nn.Dropout(ffn_drop)
        self.layers = nn.Sequential(
            nn.Conv2d(embed_dims, hidden, kernel_size=1),
            nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden),
            build_activation_layer(act_cfg),
            drop,
            nn.Conv2d(hidden, embed_dims, kernel_size=1),
            drop,
        )

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """(B, H * W, C) -> (B, H * W, C), without the residual."""
        image = tokens.unflatten(1, grid)
        rows = grid[0]
        inference = not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
        if self.in_rows and inference and tokens.device.type == 'cpu':
            modules: Any = self.layers
            rows = max(1, HIDDEN // (len(tokens) * grid[1] * modules[0].out_channels))
        if rows >= grid[0]:
            return self._reduce(self._hidden(image)).flatten(1, 2)
        result = torch.empty_like(image)
        for top in range(0, grid[0], rows):
            bottom = min(top + rows, grid[0])
            # The convolution needs one row more on either side; their own results are cut off.
            start = max(top - 1, 0)
            hidden = self._hidden(image[:, start : bottom + 1])[:, :, top - start : bottom - start]
            result[:, top:bottom] = self._reduce(hidden)
        return result.flatten(1, 2)

    def _hidden(self, image: Tensor) -> Tensor:
        """Expand and convolve, (B, H, W, C) -> (B, C', H, W) in channels-last layout."""
        modules: Any = self.layers
        expand, depthwise = modules[:2]
        hidden = F.linear(image, expand.weight.flatten(1), expand.bias)
        return depthwise_conv(hidden.permute(0, 3, 1, 2), depthwise)

    def _reduce(self, hidden: Tensor) -> Tensor:
        """Activate and reduce, (B, C', H, W) -> (B, H, W, C)."""
        modules: Any = self.layers
        activate, drop, reduce = modules[2:5]
        hidden = drop(activate(hidden.permute(0, 2, 3, 1)))
        return drop(F.linear(hidden, reduce.weight.flatten(1), reduce.bias))


def depthwise_conv(image: Tensor, conv: nn.Conv2d) -> Tensor:
    """Run a depthwise convolution on a channels-last image, (B, C, H, W) -> (B, C, H, W).

    The weight (C, 1, 3, 3) is viewed with channels-last strides: with the default ones PyTorch
    takes a path that is five times slower on the CPU, and ``contiguous(channels_last)`` sees
    nothing to change in a tensor with one channel.
    """
    weight = conv.weight.squeeze(1).unsqueeze(-1).permute(0, 3, 1, 2)
    return F.conv2d(image, weight, conv.bias, padding=conv.padding, groups=conv.groups)
