"""Efficient self-attention of SegFormer with merged queries, keys and values."""

from __future__ import annotations

from typing import Any

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ..token_merging import StageMerging
from ..token_merging.base import Grid
from . import cpu
from .merged_attention import MergedAttention
from .tokens import image_to_tokens, tokens_to_image


class EfficientAttention(MergedAttention, nn.Module):
    """Multi-head attention whose keys and values lie on a spatially reduced grid.

    Source: SegFormer (Xie et al., NeurIPS 2021), Eq. 2, and Segformer++ (Kienzle et al.,
    MIPR 2024).

    Args:
        embed_dims: C.
        num_heads: heads; divides C.
        sr_ratio: by how much the grid of keys and values is reduced, per side.
        qkv_bias: whether the projections have a bias.
        attn_drop: dropout on the attention weights.
        proj_drop: dropout on the output.
        norm_cfg: of the norm after the spatial reduction.
        merging: strategies for queries and for keys and values.
        in_rows: for inference on a CPU, work on a few queries at a time; equal to rounding.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        sr_ratio: int,
        qkv_bias: bool,
        attn_drop: float,
        proj_drop: float,
        norm_cfg: dict[str, Any],
        merging: StageMerging,
        in_rows: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.attn_drop = attn_drop
        self.merging = merging
        self.in_rows = in_rows
        # holds the parameters under mmseg's names and initialises them alike; its forward, which
        # would build the attention map, is never called
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, bias=qkv_bias)
        self.proj_drop = nn.Dropout(proj_drop)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(embed_dims, embed_dims, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = build_norm_layer(norm_cfg, embed_dims)[1]

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Attend.

        Args:
            tokens: (B, N, C), normalised.
            grid: (H, W), H * W == N, each side at least ``sr_ratio``.

        Returns:
            (B, N, C), without the residual.
        """
        return self.proj_drop(self.attend(tokens, grid))

    def reduce(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        if self.sr_ratio == 1:
            return tokens, grid
        image = self.sr(tokens_to_image(tokens, grid))
        return self.norm(image_to_tokens(image)), (image.shape[2], image.shape[3])

    def project_query(self, tokens: Tensor) -> Tensor:
        return cpu.linear(tokens, *packed_projections(self.attn)[0])

    def project_key_value(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        key, value = cpu.linear(tokens, *packed_projections(self.attn)[1]).chunk(2, dim=-1)
        return key, value

    def project_out(self, tokens: Tensor) -> Tensor:
        return cpu.linear(tokens, *packed_projections(self.attn)[2])

    def outer_projections(self) -> tuple[cpu.Projection, cpu.Projection]:
        query, _, out = packed_projections(self.attn)
        return query, out

    def attention_dropout(self) -> float:
        return self.attn_drop


def packed_projections(attention: nn.MultiheadAttention) -> list[cpu.Projection]:
    """Weight and bias for queries, for keys and values together, and of the output."""
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    dims = weight.shape[1]
    biases = (None, None) if bias is None else (bias[:dims], bias[dims:])
    out = attention.out_proj
    return [(weight[:dims], biases[0]), (weight[dims:], biases[1]), (out.weight, out.bias)]
