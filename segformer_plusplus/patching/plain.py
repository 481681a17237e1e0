"""Layers of other libraries, run on their bare weights as long as nothing has replaced them."""

from __future__ import annotations

from torch import Tensor, nn

from ..mit import cpu
from ..mit.ffn import ChannelsLastFFN
from ..token_merging.base import Grid

_PLAIN = (
    'torch.nn.modules.linear.Linear',
    'torch.nn.modules.conv.Conv2d',
    'mmcv.cnn.bricks.wrappers.Conv2d',  # by name: whoever has no mmcv has none of these
)


def is_plain(*layers: nn.Module) -> bool:
    """Whether the layers compute what their weights say, and nothing watches them.

    Not so an adapter (LoRA), a quantised or a parametrised layer, or one with hooks.
    """
    return all(
        f'{type(layer).__module__}.{type(layer).__qualname__}' in _PLAIN
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
        for layer in layers
    )


def project(layer: nn.Module, tokens: Tensor) -> Tensor:
    """(B, N, C) -> (B, N, C'), through oneDNN if the layer is plain, else as the layer does it."""
    if isinstance(layer, nn.Linear) and is_plain(layer):
        return cpu.linear(tokens, layer.weight, layer.bias)
    return layer(tokens)


def outer_projections(
    before: nn.Module, after: nn.Module
) -> tuple[cpu.Projection, cpu.Projection] | None:
    """The weights of two linear layers; None if one of them is not plain."""
    if isinstance(before, nn.Linear) and isinstance(after, nn.Linear) and is_plain(before, after):
        return (before.weight, before.bias), (after.weight, after.bias)
    return None


class HostFFN(ChannelsLastFFN):
    """Mixin for the Mix-FFN of another library."""

    training: bool

    def runs_on_weights(self) -> bool:
        """Whether :meth:`run_on_weights` computes what the layers would."""
        parts = self.parts()
        return is_plain(parts.expand, parts.conv, parts.reduce)

    def run_on_weights(self, tokens: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) -> (B, N, C), without the residual."""
        if not self.training and cpu.works_chunked(tokens):
            return self.run_chunked(tokens, grid)
        return self.run(tokens, grid)
