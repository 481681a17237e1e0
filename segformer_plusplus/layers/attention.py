"""Efficient self-attention of SegFormer with merged queries, keys and values."""

from __future__ import annotations

from typing import Any

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ..token_merging import StageMerging
from ..token_merging.base import Grid
from .merged_attention import PackedAttention, SharedPlans


class EfficientAttention(PackedAttention, nn.Module):
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
        self.merging = merging
        self.in_rows = in_rows
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, attn_drop, bias=qkv_bias)
        self.proj_drop = nn.Dropout(proj_drop)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(embed_dims, embed_dims, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = build_norm_layer(norm_cfg, embed_dims)[1]

    def forward(self, tokens: Tensor, grid: Grid, plans: SharedPlans | None = None) -> Tensor:
        """Attend.

        Args:
            tokens: (B, N, C), normalised.
            grid: (H, W), H * W == N, each side at least ``sr_ratio``.
            plans: see :meth:`MergedAttention.attend`.

        Returns:
            (B, N, C), without the residual.
        """
        return self.proj_drop(self.attend(tokens, grid, plans))
