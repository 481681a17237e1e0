"""Holds SegFormer's Mix-FFN, an MLP whose depthwise convolution tells tokens where they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..kernels.depthwise import depthwise_gelu
from ..kernels.runtime import runs_on
from ..token_merging.base import Grid, image_to_tokens, tokens_to_image
from . import cpu
from .plain import is_gelu, is_plain, is_untouched

HIDDEN = 2**20
"""Limits the hidden activations of a chunk, which stay in the cache of a CPU."""


class FFNParts(NamedTuple):
    """Names the layers of a Mix-FFN.

    Attributes:
        expand: linear layer or 1x1 convolution, C -> C'.
        conv: the 3x3 depthwise convolution.
        activation: after it.
        dropout: after the activation and at the end.
        reduce: linear layer or 1x1 convolution, C' -> C.
    """

    expand: nn.Module
    conv: nn.Conv2d
    activation: nn.Module
    dropout: nn.Module
    reduce: nn.Module


class ChannelsLastFFN:
    """Runs the Mix-FFN that a module holds on channels-last tokens without a copy.

    Attributes:
        with_cp: whether the convolution and the activation are computed again in the backward
            pass, which then keeps one tensor of the hidden size, not three.
    """

    with_cp = False

    def parts(self) -> FFNParts:
        """Returns the layers, whatever the module calls them."""
        raise NotImplementedError

    def is_bare(self) -> bool:
        """Says whether the weights may be read; else the layers have to be called as they are."""
        expand, conv, activation, dropout, reduce = self.parts()
        around = cast(nn.Module, self).children()  # such as what holds the convolution
        untouched = is_untouched(activation, dropout, *around)
        return untouched and is_plain(expand, conv, reduce)

    def run(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Computes (B, H * W, C) -> (B, H * W, C), without the residual."""
        parts = self.parts()
        hidden = cpu.linear(tokens.unflatten(1, grid), *_weights(parts.expand))
        if self.with_cp and hidden.requires_grad:
            # ends with the product, as that would keep its input; it is not computed again
            out = checkpoint(self._contract, hidden, use_reentrant=False)
        else:
            out = self._contract(hidden)
        return parts.dropout(out).flatten(1, 2)

    def run_chunked(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Computes what ``run`` does, for inference on a CPU."""
        result = torch.empty_like(tokens, memory_format=torch.contiguous_format)
        image = result.unflatten(1, grid)
        for place, out in self._chunks(tokens, grid, nn.Identity()):
            image[place] = out
        return result

    def add_chunked(self, tokens: Tensor, grid: Grid, norm: nn.Module) -> None:
        """Computes ``tokens += ffn(norm(tokens))`` in place, for inference on a CPU.

        Args:
            tokens: (B, H * W, C), contiguous.
            grid: (H, W).
            norm: of the tokens.
        """
        image = tokens.unflatten(1, grid)
        done: list[tuple[Any, Tensor]] = []
        for chunk in self._chunks(tokens, grid, norm):
            # Only now may the chunk before change: its last row is the border read just before.
            for place, out in done:
                image[place].add_(out)
            done = [chunk]
        for place, out in done:
            image[place].add_(out)

    def _chunks(
        self, tokens: Tensor, grid: Grid, norm: nn.Module
    ) -> Iterator[tuple[tuple[int, slice], Tensor]]:
        """Yields an image's number and some of its rows, and ``ffn(norm(tokens))`` of these."""
        parts = self.parts()
        rows = max(1, HIDDEN // (grid[1] * parts.conv.out_channels))
        for number, image in enumerate(tokens.unflatten(1, grid)):
            for top in range(0, grid[0], rows):
                # The convolution needs one row more on either side; their own results are cut off.
                start, stop = max(top - 1, 0), min(top + rows, grid[0])
                part = norm(image[start : stop + 1])
                hidden = self._convolve(cpu.linear(part, *_weights(parts.expand))[None])
                own = self._activate(hidden[:, top - start : stop - start])[0]
                yield (number, slice(top, stop)), cpu.linear(own, *_weights(parts.reduce))

    def _is_one_kernel(self, hidden: Tensor) -> bool:
        """Tells whether a kernel convolves and activates this (B, H, W, C')."""
        _, conv, activation, dropout, _ = self.parts()
        weights = [conv.weight] if conv.bias is None else [conv.weight, conv.bias]
        return (
            runs_on(hidden, *weights)
            and (conv.weight.shape[1:], conv.padding) == ((1, 3, 3), (1, 1))
            and len(conv.weight) == hidden.shape[-1]
            and is_gelu(activation)
            and type(dropout) is nn.Dropout
            and (dropout.p == 0 or not dropout.training)
        )

    def _contract(self, hidden: Tensor) -> Tensor:
        """Computes (B, H, W, C') -> (B, H, W, C)."""
        parts = self.parts()
        if self._is_one_kernel(hidden):
            own = depthwise_gelu(hidden, parts.conv.weight, parts.conv.bias)
        else:
            own = self._activate(self._convolve(hidden))
        return cpu.linear(own, *_weights(parts.reduce))

    def _convolve(self, hidden: Tensor) -> Tensor:
        """Convolves (B, H, W, C') -> (B, H, W, C')."""
        return depthwise_conv(hidden.permute(0, 3, 1, 2), self.parts().conv).permute(0, 2, 3, 1)

    def _activate(self, hidden: Tensor) -> Tensor:
        parts = self.parts()
        return parts.dropout(parts.activation(hidden))


class SequentialFFN(ChannelsLastFFN):
    """Runs a Mix-FFN under mmseg's names: ``layers`` are six in a row."""

    layers: nn.Sequential

    def parts(self) -> FFNParts:
        layers: Any = self.layers
        return FFNParts(layers[0], layers[1], layers[2], layers[5], layers[4])


class MixFFN(SequentialFFN, nn.Module):
    """Expands, convolves by 3x3 depthwise, activates and reduces tokens (SegFormer, Eq. 3).

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
        """Computes (B, H * W, C) -> (B, H * W, C), without the residual."""
        if self.is_bare():
            return self.run(tokens, grid)
        return image_to_tokens(self.layers(tokens_to_image(tokens, grid)))


def _weights(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Returns weight and bias of a linear layer or a 1x1 convolution as those of the former."""
    return layer.weight.flatten(1), layer.bias


def depthwise_conv(image: Tensor, conv: nn.Conv2d) -> Tensor:
    """Runs a depthwise convolution on a channels-last image, (B, C, H, W) -> (B, C, H, W).

    The weight (C, 1, 3, 3) is viewed with channels-last strides: with the default ones PyTorch
    takes a path that is five times slower on the CPU, and ``contiguous(channels_last)`` sees
    nothing to change in a tensor with one channel.
    """
    weight = conv.weight.squeeze(1).unsqueeze(-1).permute(0, 3, 1, 2)
    return F.conv2d(image, weight, conv.bias, padding=conv.padding, groups=conv.groups)
