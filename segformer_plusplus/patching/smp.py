"""The ``mit_b*`` encoders of segmentation_models.pytorch (SMP), under any of its decoders."""

from __future__ import annotations

from typing import Any

from segmentation_models_pytorch.encoders.mix_transformer import (
    Attention,
    MixVisionTransformerEncoder,
    Mlp,
)
from torch import Tensor, nn

from ..mit import cpu
from ..mit.attention import MergedAttention
from ..mit.ffn import FFNParts
from ..token_merging import InputDownsampling
from ..token_merging.base import Grid, image_to_tokens, tokens_to_image
from .backbones import HostBackbone
from .plain import HostFFN, outer_projections, project


class MergedSmpAttention(MergedAttention, Attention):
    """SMP's attention with merging."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return self.proj_drop(self.attend(x, (height, width)))

    def reduce(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        if self.sr_ratio == 1:
            return tokens, grid
        image = self.sr(tokens_to_image(tokens, grid))
        return self.norm(image_to_tokens(image)), (image.shape[2], image.shape[3])

    def project_query(self, tokens: Tensor) -> Tensor:
        return project(self.q, tokens)

    def project_key_value(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        key, value = project(self.kv, tokens).chunk(2, dim=-1)
        return key, value

    def project_out(self, tokens: Tensor) -> Tensor:
        return project(self.proj, tokens)

    def outer_projections(self) -> tuple[cpu.Projection, cpu.Projection] | None:
        return outer_projections(self.q, self.proj)

    def dropout_rate(self) -> float:
        return self.attn_drop.p


class FastMlp(HostFFN, Mlp):
    """SMP's Mix-FFN without copies."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        if not self.runs_on_weights():
            return super().forward(x, height, width)
        return self.run_on_weights(x, (height, width))

    def parts(self) -> FFNParts:
        return FFNParts(self.fc1, self.dwconv.dwconv, self.act, self.drop, self.fc2)


class DownsamplingEncoder(MixVisionTransformerEncoder):
    """SMP's encoder of an image made smaller; the features of every stride shrink alike."""

    downsampling: InputDownsampling

    def forward(self, x: Tensor) -> list[Tensor]:
        return super().forward(self.downsampling(x))


class Backbone(HostBackbone):
    """``MixVisionTransformer`` of SMP, the base of its encoders."""

    library = 'segmentation-models-pytorch'
    swaps = {Attention: MergedSmpAttention, Mlp: FastMlp}
    entry_swap = (MixVisionTransformerEncoder, DownsamplingEncoder)
    tested = 'segmentation-models-pytorch 0.6'

    def _find_blocks(self) -> list[list[nn.Module]]:
        return [list(self.require(self.module, f'block{stage}')) for stage in range(1, 5)]

    def attention(self, block: Any) -> Any:
        return self.require(block, 'attn')

    def ffn(self, block: Any) -> Any:
        return self.require(block, 'mlp')

    def entry(self) -> nn.Module:
        return self.module

    def check_block(self, block: Any) -> None:
        ffn, attention = self.ffn(block), self.attention(block)
        self.require(ffn, 'fc1', 'fc2', 'act', 'drop')
        self.check_depthwise(self.require(self.require(ffn, 'dwconv'), 'dwconv'))
        self.require(attention, 'q', 'kv', 'proj', 'attn_drop', 'proj_drop', 'num_heads', 'dim')
        expected = (attention.dim // attention.num_heads) ** -0.5
        if self.require(attention, 'scale') != expected:
            raise self.unknown(attention, f'scales by {attention.scale}, not {expected}')
        if self.require(attention, 'sr_ratio') > 1:
            self.require(attention, 'sr', 'norm')
