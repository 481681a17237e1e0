"""Adapts the ``mit_b*`` encoders of segmentation_models.pytorch (SMP) under any decoder."""

from __future__ import annotations

from typing import Any

from segmentation_models_pytorch.encoders.mix_transformer import (
    Attention,
    MixVisionTransformerEncoder,
    Mlp,
)
from torch import Tensor, nn

from ..mit.ffn import FFNParts
from .backbones import HostBackbone
from .plain import DownsamplingEntry, HostAttention, HostFFN


class MergedSmpAttention(HostAttention, Attention):
    """Runs SMP's attention with merging."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return self.proj_drop(self.attend(x, (height, width)))

    def projections(self) -> tuple[nn.Module, list[nn.Module], nn.Module]:
        return self.q, [self.kv], self.proj

    def dropout_rate(self) -> float:
        return self.attn_drop.p


class FastMlp(HostFFN, Mlp):
    """Runs SMP's Mix-FFN without copies."""

    def parts(self) -> FFNParts:
        return FFNParts(self.fc1, self.dwconv.dwconv, self.act, self.drop, self.fc2)


class DownsamplingEncoder(DownsamplingEntry, MixVisionTransformerEncoder):
    """Runs SMP's encoder on an image made smaller; the features of every stride shrink alike."""


class Backbone(HostBackbone):
    """Adapts ``MixVisionTransformer`` of SMP, the base of its encoders."""

    library = 'segmentation-models-pytorch'
    tested = 'segmentation-models-pytorch 0.6'
    swaps = {Attention: MergedSmpAttention, Mlp: FastMlp}
    entry_swap = (MixVisionTransformerEncoder, DownsamplingEncoder)
    attention_name, ffn_name = 'attn', 'mlp'

    def _find_blocks(self) -> list[list[nn.Module]]:
        return [list(self.require(self.module, f'block{stage}')) for stage in range(1, 5)]

    def entry(self) -> nn.Module:
        return self.module

    def check_block(self, attention: Any, ffn: Any) -> None:
        self.require(ffn, 'fc1', 'fc2', 'act', 'drop')
        self.check_depthwise(self.require(self.require(ffn, 'dwconv'), 'dwconv'))
        self.require(attention, 'q', 'kv', 'proj', 'attn_drop', 'proj_drop', 'num_heads', 'dim')
        self.check_scale(attention, 'scale', attention.dim // attention.num_heads)
        if self.require(attention, 'sr_ratio') > 1:
            self.require(attention, 'sr', 'norm')
