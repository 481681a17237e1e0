"""``SegformerModel`` of Transformers, alone or in its classifiers and segmentors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.segformer.modeling_segformer import (
    SegformerAttention,
    SegformerMixMLP,
    SegformerOverlapPatchEmbeddings,
)

from ..errors import SegformerPlusPlusError
from ..mit import cpu
from ..mit.attention import MergedAttention
from ..mit.ffn import FFNParts
from ..token_merging import InputDownsampling
from ..token_merging.base import Grid, image_to_tokens, tokens_to_image
from .backbones import HostBackbone
from .plain import HostFFN, outer_projections, project


class MergedSegformerAttention(MergedAttention, SegformerAttention):
    """Transformers' attention with merging, whatever ``attn_implementation`` says."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        height: int,
        width: int,
        attention_mask: Tensor | None = None,
        **kwargs: Any,  # Transformers hands every block what the model was called with
    ) -> tuple[Tensor, None]:
        if kwargs.get('output_attentions', getattr(self.config, 'output_attentions', False)):
            raise SegformerPlusPlusError(
                'output_attentions=True: with token merging there are no attention maps of single '
                'tokens; call remove_token_merging(model) to see those of the model without it'
            )
        if attention_mask is not None:
            raise SegformerPlusPlusError(
                'attention_mask: tokens that are merged cannot be masked one by one; leave it out'
            )
        return self.attend(hidden_states, (height, width)), None

    @property
    def num_heads(self) -> int:  # type: ignore[override]
        return self.num_attention_heads

    def reduce(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        if self.sequence_reduction_ratio == 1:
            return tokens, grid
        reduction = self.sequence_reduction
        image = reduction.sequence_reduction(tokens_to_image(tokens, grid))
        return reduction.layer_norm(image_to_tokens(image)), (image.shape[2], image.shape[3])

    def project_query(self, tokens: Tensor) -> Tensor:
        return project(self.q_proj, tokens)

    def project_key_value(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return project(self.k_proj, tokens), project(self.v_proj, tokens)

    def project_out(self, tokens: Tensor) -> Tensor:
        return project(self.o_proj, tokens)

    def outer_projections(self) -> tuple[cpu.Projection, cpu.Projection] | None:
        return outer_projections(self.q_proj, self.o_proj)

    def dropout_rate(self) -> float:
        return self.attention_dropout


class FastMixMLP(HostFFN, SegformerMixMLP):
    """Transformers' Mix-FFN without copies."""

    def forward(self, hidden_states: Tensor, height: int, width: int) -> Tensor:
        if not self.runs_on_weights():
            return super().forward(hidden_states, height, width)
        return self.run_on_weights(hidden_states, (height, width))

    def parts(self) -> FFNParts:
        return FFNParts(self.fc1, self.dwconv.dwconv, self.activation_fn, self.dropout, self.fc2)


class DownsamplingPatchEmbeddings(SegformerOverlapPatchEmbeddings):
    """Transformers' first patch embedding, of an image made smaller."""

    downsampling: InputDownsampling

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, int, int]:
        return super().forward(self.downsampling(pixel_values))


class Backbone(HostBackbone):
    """``transformers.SegformerModel``."""

    library = 'transformers'
    swaps = {SegformerAttention: MergedSegformerAttention, SegformerMixMLP: FastMixMLP}
    entry_swap = (SegformerOverlapPatchEmbeddings, DownsamplingPatchEmbeddings)
    tested = 'Transformers 5.23'

    def _find_blocks(self) -> list[list[nn.Module]]:
        stages = self.require(self.module, 'stages')
        return [list(self.require(stage, 'blocks')) for stage in stages]

    def attention(self, block: Any) -> Any:
        return self.require(block, 'attention')

    def ffn(self, block: Any) -> Any:
        return self.require(block, 'mlp')

    def entry(self) -> nn.Module:
        return self.require(self.module.stages[0], 'patch_embeddings')

    def check_block(self, block: Any) -> None:
        ffn, attention = self.ffn(block), self.attention(block)
        self.require(ffn, 'fc1', 'fc2', 'activation_fn', 'dropout')
        self.check_depthwise(self.require(self.require(ffn, 'dwconv'), 'dwconv'))
        self.require(attention, 'q_proj', 'k_proj', 'v_proj', 'o_proj', 'config')
        self.require(attention, 'num_attention_heads', 'head_dim', 'attention_dropout')
        if self.require(attention, 'scaling') != attention.head_dim**-0.5:
            raise self.unknown(attention, f'scales by {attention.scaling}')
        if self.require(attention, 'sequence_reduction_ratio') > 1:
            reduction = self.require(attention, 'sequence_reduction')
            self.require(reduction, 'sequence_reduction', 'layer_norm')
