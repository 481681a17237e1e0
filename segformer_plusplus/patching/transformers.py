"""Adapts ``SegformerModel`` of Transformers, alone or in classifiers and segmentors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.segformer.modeling_segformer import (
    SegformerAttention,
    SegformerMixMLP,
    SegformerOverlapPatchEmbeddings,
)

from ..errors import SegformerPlusPlusError
from ..mit.ffn import FFNParts
from ..token_merging.base import Grid
from .backbones import HostBackbone
from .plain import DownsamplingEntry, HostAttention, HostFFN


class MergedSegformerAttention(HostAttention, SegformerAttention):
    """Runs Transformers' attention with merging, whatever ``attn_implementation`` says."""

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

    def projections(self) -> tuple[nn.Module, list[nn.Module], nn.Module]:
        return self.q_proj, [self.k_proj, self.v_proj], self.o_proj

    def reduce(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        ratio = self.sequence_reduction_ratio
        if ratio == 1:
            return tokens, grid
        return self.sequence_reduction(tokens, *grid), (grid[0] // ratio, grid[1] // ratio)

    def dropout_rate(self) -> float:
        return self.attention_dropout


class FastMixMLP(HostFFN, SegformerMixMLP):
    """Runs Transformers' Mix-FFN without copies."""

    def parts(self) -> FFNParts:
        return FFNParts(self.fc1, self.dwconv.dwconv, self.activation_fn, self.dropout, self.fc2)


class DownsamplingPatchEmbeddings(DownsamplingEntry, SegformerOverlapPatchEmbeddings):
    """Runs Transformers' first patch embedding on an image made smaller."""


class Backbone(HostBackbone):
    """Adapts ``transformers.SegformerModel``."""

    library = 'transformers'
    tested = 'Transformers 5.23'
    swaps = {SegformerAttention: MergedSegformerAttention, SegformerMixMLP: FastMixMLP}
    entry_swap = (SegformerOverlapPatchEmbeddings, DownsamplingPatchEmbeddings)
    attention_name, ffn_name = 'attention', 'mlp'

    def _find_blocks(self) -> list[list[nn.Module]]:
        stages = self.require(self.module, 'stages')
        return [list(self.require(stage, 'blocks')) for stage in stages]

    def entry(self) -> nn.Module:
        return self.require(self.module.stages[0], 'patch_embeddings')

    def check_block(self, attention: Any, ffn: Any) -> None:
        self.require(ffn, 'fc1', 'fc2', 'activation_fn', 'dropout')
        self.check_depthwise(self.require(self.require(ffn, 'dwconv'), 'dwconv'))
        self.require(attention, 'q_proj', 'k_proj', 'v_proj', 'o_proj', 'config')
        self.require(attention, 'num_attention_heads', 'head_dim', 'attention_dropout')
        self.check_scale(attention, 'scaling', attention.head_dim)
        if self.require(attention, 'sequence_reduction_ratio') > 1:
            self.require(attention, 'sequence_reduction')

    def saved_config(self) -> Any:
        return self.require(self.module, 'config')
