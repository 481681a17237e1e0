"""Mix-FFN of SegFormer: the MLP with a depthwise convolution that tells tokens where they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..token_merging.base import Grid
from . import cpu

HIDDEN = 2**20
"""Hidden activations that are worked on at a time on a CPU: they stay in its cache."""


class FFNParts(NamedTuple):
    """What a Mix-FFN consists of, whoever holds it.

    Attributes:
        expand: linear layer or 1x1 convolution, C -> C'.
        conv: the 3x3 depthwise convolution.
        activation: after it.
        dropout: after the activation and at the end.
        reduce: linear layer or 1x1 convolution, C' -> C.
    """

    expand: nn.Module
    conv: nn.Conv2d
    activation: Callable[[Tensor], Tensor]
    dropout: nn.Module
    reduce: nn.Module


class ChannelsLastFFN:
    """Mixin for modules that hold a Mix-FFN: runs it on channels-last tokens without a copy."""

    def parts(self) -> FFNParts:
        """The layers, with whatever names."""
        raise NotImplementedError

    def run(self, tokens: Tensor, grid: Grid) -> Tensor:
        """(B, H * W, C) -> (B, H * W, C), without the residual."""
        parts = self.parts()
        hidden = self._convolve(cpu.linear(tokens.unflatten(1, grid), *_weights(parts.expand)))
        out = cpu.linear(self._activate(hidden), *_weights(parts.reduce))
        return parts.dropout(out).flatten(1, 2)

    def run_chunked(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Computes what :meth:`run` does, for inference on a CPU: a few rows at a time."""
        result = torch.empty_like(tokens, memory_format=torch.contiguous_format)
        rows = self._rows(grid)
        for image, target in zip(tokens.unflatten(1, grid), result.unflatten(1, grid), strict=True):
            for top in range(0, grid[0], rows):
                start = max(top - 1, 0)
                part = target[top : top + rows]
                inside = slice(top - start, top - start + len(part))
                part.copy_(self._run_part(image[start : top + rows + 1], inside))
        return result

    def add_chunked(self, tokens: Tensor, grid: Grid, norm: nn.Module) -> None:
        """``tokens += ffn(norm(tokens))`` in place, for inference.

        Args:
            tokens: (B, H * W, C), contiguous.
            grid: (H, W).
            norm: of the tokens.
        """
        rows = self._rows(grid)
        for image in tokens.unflatten(1, grid):
            done: tuple[Tensor, Tensor] | None = None
            for top in range(0, grid[0], rows):
                part = image[top : top + rows]
                # The convolution needs one row more on either side; their own results are cut off.
                start = max(top - 1, 0)
                with_borders = norm(image[start : top + rows + 1])
                # Only now may the rows above change: their last one is the border read just before.
                if done is not None:
                    done[0].add_(done[1])
                inside = slice(top - start, top - start + len(part))
                done = part, self._run_part(with_borders, inside)
            if done is not None:
                done[0].add_(done[1])

    def _rows(self, grid: Grid) -> int:
        return max(1, HIDDEN // (grid[1] * self.parts().conv.out_channels))

    def _run_part(self, image: Tensor, own: slice) -> Tensor:
        """Some rows of one normalised image with those around them -> the rows ``own``."""
        parts = self.parts()
        hidden = self._convolve(cpu.linear(image, *_weights(parts.expand))[None])
        return cpu.linear(self._activate(hidden[:, own])[0], *_weights(parts.reduce))

    def _convolve(self, hidden: Tensor) -> Tensor:
        """The depthwise convolution, (B, H, W, C') -> (B, H, W, C')."""
        return depthwise_conv(hidden.permute(0, 3, 1, 2), self.parts().conv).permute(0, 2, 3, 1)

    def _activate(self, hidden: Tensor) -> Tensor:
        parts = self.parts()
        return parts.dropout(parts.activation(hidden))


class SequentialFFN(ChannelsLastFFN):
    """Mixin for modules with the parameters' names of mmseg: ``layers`` are six in a row."""

    layers: nn.Sequential

    def parts(self) -> FFNParts:
        layers: Any = self.layers
        return FFNParts(layers[0], layers[1], layers[2], layers[5], layers[4])


class MixFFN(SequentialFFN, nn.Module):
    """Expand, 3x3 depthwise convolution, activation, reduce (SegFormer, Eq. 3), on tokens.

    The 1x1 convolutions run as linear layers on channels-last tokens; the modules that hold their
    weights are convolutions so that the state dict is mmseg's.

    Args:
        embed_dims: C.
        feedforward_channels: C' of the hidden layer.
        activation: a module.
        ffn_drop: dropout after the activation and at the end.
    """

    def __init__(
        self,
        embed_dims: int,
        feedforward_channels: int,
        activation: nn.Module,
        ffn_drop: float,
    ) -> None:
        super().__init__()
        hidden = feedforward_channels
        drop = nn.Dropout(ffn_drop)
        self.layers = nn.Sequential(
            nn.Conv2d(embed_dims, hidden, kernel_size=1),
            nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden),
            activation,
            drop,
            nn.Conv2d(hidden, embed_dims, kernel_size=1),
            drop,
        )

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """(B, H * W, C) -> (B, H * W, C), without the residual."""
        return self.run(tokens, grid)


def _weights(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Of a linear layer or a 1x1 convolution, as those of a linear layer."""
    return layer.weight.flatten(1), layer.bias


def depthwise_conv(image: Tensor, conv: nn.Conv2d) -> Tensor:
    """Run a depthwise convolution on a channels-last image, (B, C, H, W) -> (B, C, H, W).

    The weight (C, 1, 3, 3) is viewed with channels-last strides: with the default ones PyTorch
    takes a path that is five times slower on the CPU, and ``contiguous(channels_last)`` sees
    nothing to change in a tensor with one channel.
    """
    weight = conv.weight.squeeze(1).unsqueeze(-1).permute(0, 3, 1, 2)
    return F.conv2d(image, weight, conv.bias, padding=conv.padding, groups=conv.groups)
