"""Efficient self-attention of SegFormer with merged queries, keys and values."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ..token_merging import MergePlan, StageMerging
from ..token_merging.base import Grid
from . import cpu
from .tokens import image_to_tokens, tokens_to_image


class EfficientAttention(nn.Module):
    """Multi-head attention whose keys and values lie on a spatially reduced grid.

    Source: SegFormer (Xie et al., NeurIPS 2021), Eq. 2, and Segformer++ (Kienzle et al.,
    MIPR 2024): queries are merged before the projection and copied back after the attention; keys
    and values are merged after the spatial reduction and its norm.

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
        query, plan = self._merge_query(tokens, grid)
        key_value = self._reduce_key_value(tokens, grid)
        out = (self._attend_in_rows if self._goes_in_rows(tokens) else self._attend)(
            query, key_value
        )
        return self.proj_drop(out if plan is None else plan.unmerge(out))

    def _goes_in_rows(self, tokens: Tensor) -> bool:
        # in half precision the fused attention adds up in float32, which rows would not
        precise = tokens.dtype in (torch.float32, torch.float64)
        return self.in_rows and precise and not self.training and cpu.works_in_rows(tokens)

    def _merge_query(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, MergePlan | None]:
        if self.merging.q is None:
            return tokens, None
        plan = self.merging.q.plan(tokens, grid)
        return plan.merge(tokens), plan

    def _reduce_key_value(self, tokens: Tensor, grid: Grid) -> Tensor:
        if self.sr_ratio > 1:
            image = self.sr(tokens_to_image(tokens, grid))
            grid = (image.shape[2], image.shape[3])
            tokens = self.norm(image_to_tokens(image))
        if self.merging.kv is not None:
            tokens = self.merging.kv.plan(tokens, grid).merge(tokens)
        return tokens

    def _attend(self, query: Tensor, key_value: Tensor) -> Tensor:
        q_weights, kv_weights, out_weights = self._projections()
        q = cpu.linear(query, *q_weights)
        k, v = cpu.linear(key_value, *kv_weights).chunk(2, dim=-1)
        dropout = self.attn_drop if self.training else 0.0
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return cpu.linear(out.transpose(1, 2).flatten(2), *out_weights)

    def _attend_in_rows(self, query: Tensor, key_value: Tensor) -> Tensor:
        q_weights, kv_weights, out_weights = self._projections()
        k, v = cpu.linear(key_value, *kv_weights).chunk(2, dim=-1)
        result = torch.empty_like(query)
        for i in range(len(query)):
            memory = cpu.KeyValue(k[i], v[i], self.num_heads, q_weights, out_weights)
            parts = memory.num_queries
            for part, target in zip(query[i].split(parts), result[i].split(parts), strict=True):
                target.copy_(memory.attend(part))
        return result

    def _projections(self) -> list[cpu.Projection]:
        """Weight and bias for queries, for keys and values together, and of the output."""
        weight, bias = self.attn.in_proj_weight, self.attn.in_proj_bias
        dims = weight.shape[1]
        biases = (None, None) if bias is None else (bias[:dims], bias[dims:])
        out = self.attn.out_proj
        return [(weight[:dims], biases[0]), (weight[dims:], biases[1]), (out.weight, out.bias)]
