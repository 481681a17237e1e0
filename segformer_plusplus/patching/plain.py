"""Runs parts of other libraries on their bare weights as long as nothing has replaced them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..mit import cpu
from ..mit.attention import MergedAttention
from ..mit.ffn import ChannelsLastFFN
from ..mit.plain import is_plain
from ..token_merging import InputDownsampling
from ..token_merging.base import Grid


class HostAttention(MergedAttention):
    """Adapts an attention of another library whose projections are linear layers (mixin)."""

    def projections(self) -> tuple[nn.Module, list[nn.Module], nn.Module]:
        """Returns the layers of the query, of key and value (in one or in two), and of the output.

        Each is (B, N, C) -> (B, N, C), the one for key and value (B, N, C) -> (B, N, 2 * C).
        """
        raise NotImplementedError

    def project_query(self, tokens: Tensor) -> Tensor:
        return _project(self.projections()[0], tokens)

    def project_key_value(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        layers = self.projections()[1]
        projected = [_project(layer, tokens) for layer in layers]
        key, value = projected if len(layers) == 2 else projected[0].chunk(2, dim=-1)
        return key, value

    def project_out(self, tokens: Tensor) -> Tensor:
        return _project(self.projections()[2], tokens)

    def outer_projections(self) -> tuple[cpu.Projection, cpu.Projection] | None:
        before, _, after = self.projections()
        if isinstance(before, nn.Linear) and isinstance(after, nn.Linear):
            if is_plain(before, after):
                return (before.weight, before.bias), (after.weight, after.bias)
        return None


def _project(layer: nn.Module, tokens: Tensor) -> Tensor:
    """Maps (B, N, C) to (B, N, C'), through oneDNN if the layer is plain."""
    if isinstance(layer, nn.Linear) and is_plain(layer):
        return cpu.linear(tokens, layer.weight, layer.bias)
    return layer(tokens)


class DownsamplingEntry(nn.Module):
    """Makes the image smaller for the module that sees it first (mixin)."""

    downsampling: InputDownsampling

    def forward(self, image: Tensor) -> Any:
        return super().forward(self.downsampling(image))


class HostFFN(ChannelsLastFFN):
    """Runs the Mix-FFN of another library, whose class stands behind this mixin."""

    training: bool

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        out = self.run_on_weights(tokens, (height, width))
        layer: Any = super()
        return layer.forward(tokens, height, width) if out is None else out

    def run_on_weights(self, tokens: Tensor, grid: Grid) -> Tensor | None:
        """Maps (B, N, C) to itself without the residual; None unless ``is_bare``."""
        if not self.is_bare():
            return None
        if not self.training and cpu.works_chunked(tokens):
            return self.run_chunked(tokens, grid)
        return self.run(tokens, grid)
