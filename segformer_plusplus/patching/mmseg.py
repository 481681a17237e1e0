"""Adapts mmsegmentation's ``MixVisionTransformer``, also in mmpose's estimators."""

from __future__ import annotations

from typing import Any

from mmseg.models.backbones.mit import EfficientMultiheadAttention, MixFFN
from mmseg.models.utils import PatchEmbed
from torch import Tensor, nn

from ..mit.attention import PackedAttention
from ..mit.ffn import SequentialFFN
from ..token_merging.base import Grid
from .backbones import HostBackbone
from .plain import DownsamplingEntry, HostFFN


class MergedEfficientMultiheadAttention(PackedAttention, EfficientMultiheadAttention):
    """Runs mmseg's attention with merging."""

    def forward(self, x: Tensor, hw_shape: Grid, identity: Tensor | None = None) -> Tensor:
        out = self.dropout_layer(self.proj_drop(self.attend(x, hw_shape)))
        return (x if identity is None else identity) + out


class FastMixFFN(HostFFN, SequentialFFN, MixFFN):
    """Runs mmseg's Mix-FFN without copies."""

    def forward(  # type: ignore[override]
        self, x: Tensor, hw_shape: Grid, identity: Tensor | None = None
    ) -> Tensor:
        out = self.run_on_weights(x, hw_shape)
        if out is None:
            return MixFFN.forward(self, x, hw_shape, identity)
        return (x if identity is None else identity) + self.dropout_layer(out)


class DownsamplingPatchEmbed(DownsamplingEntry, PatchEmbed):
    """Runs mmseg's first patch embedding on an image made smaller."""


class Backbone(HostBackbone):
    """Adapts ``mmseg.models.backbones.MixVisionTransformer``."""

    library = 'onedl-mmsegmentation'
    tested = 'mmsegmentation 1.2 to 1.4'
    swaps = {
        EfficientMultiheadAttention: MergedEfficientMultiheadAttention,
        MixFFN: FastMixFFN,
    }
    entry_swap = (PatchEmbed, DownsamplingPatchEmbed)
    attention_name, ffn_name = 'attn', 'ffn'

    def _find_blocks(self) -> list[list[nn.Module]]:
        stages = list(self.require(self.module, 'layers'))
        if not all(len(stage) == 3 for stage in stages):
            raise self.unknown(self.module.layers, 'does not hold embedding, blocks and norm')
        return [list(blocks) for _, blocks, _ in stages]

    def entry(self) -> nn.Module:
        return self.module.layers[0][0]

    def check_block(self, attention: Any, ffn: Any) -> None:
        layers = self.require(ffn, 'dropout_layer', 'layers')
        if len(layers) != 6 or layers[3] is not layers[5]:
            raise self.unknown(layers, 'is not the six layers of a Mix-FFN')
        self.check_depthwise(layers[1])
        needed = ['sr', 'norm'] if self.require(attention, 'sr_ratio') > 1 else []
        self.require(
            attention, 'num_heads', 'batch_first', 'proj_drop', 'dropout_layer', *needed, 'attn'
        )
        if not attention.batch_first:
            raise self.unknown(attention, 'was built with batch_first=False')
