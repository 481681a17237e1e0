"""Attention with merged queries, keys and values, whoever holds the parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..token_merging import MergePlan, StageMerging
from ..token_merging.base import Grid
from . import cpu


class MergedAttention:
    """Mixin for modules that hold the parameters of SegFormer's attention, under whatever names.

    Queries are merged before the projection and copied back after the attention; keys and values
    are merged after the spatial reduction and its norm (Segformer++, Kienzle et al., MIPR 2024).
    The attention map is never built.

    Attributes:
        num_heads: heads of the attention.
        training: whether the module is in training mode.
        merging: strategies for queries and for keys and values.
        in_rows: for inference on a CPU, work on a few queries at a time; equal to rounding.
    """

    num_heads: int
    training: bool
    merging: StageMerging
    in_rows: bool = True

    def reduce(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """Spatial reduction and norm of keys and values: (B, N, C) -> (B, N', C), their grid."""
        raise NotImplementedError

    def project_query(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> queries (B, N, C)."""
        raise NotImplementedError

    def project_key_value(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, C) -> keys and values, (B, M, C) each."""
        raise NotImplementedError

    def project_out(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C), after the attention."""
        raise NotImplementedError

    def outer_projections(self) -> tuple[cpu.Projection, cpu.Projection] | None:
        """Weights that make queries, and that follow the attention; None where they are not known.

        Without them the attention does not go in rows.
        """
        raise NotImplementedError

    def attention_dropout(self) -> float:
        """Dropout rate on the attention weights in training."""
        raise NotImplementedError

    def attend(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Merge, attend, unmerge.

        Args:
            tokens: (B, N, C), normalised.
            grid: (H, W), H * W == N, each side at least the spatial reduction.

        Returns:
            (B, N, C), after the output's projection, without dropout and residual.
        """
        query, plan = self._merge_query(tokens, grid)
        key_value = self._merge_key_value(*self.reduce(tokens, grid))
        outer = self.outer_projections() if self._may_go_in_rows(tokens) else None
        if outer is None:
            out = self._attend(query, key_value)
        else:
            out = self._attend_in_rows(query, key_value, *outer)
        return out if plan is None else plan.unmerge(out)

    def _may_go_in_rows(self, tokens: Tensor) -> bool:
        # in half precision the fused attention adds up in float32, which rows would not
        precise = tokens.dtype in (torch.float32, torch.float64)
        return self.in_rows and precise and not self.training and cpu.works_in_rows(tokens)

    def _merge_query(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, MergePlan | None]:
        if self.merging.q is None:
            return tokens, None
        plan = self.merging.q.plan(tokens, grid)
        return plan.merge(tokens), plan

    def _merge_key_value(self, tokens: Tensor, grid: Grid) -> Tensor:
        if self.merging.kv is None:
            return tokens
        return self.merging.kv.plan(tokens, grid).merge(tokens)

    def _attend(self, query: Tensor, key_value: Tensor) -> Tensor:
        q, (k, v) = self.project_query(query), self.project_key_value(key_value)
        dropout = self.attention_dropout() if self.training else 0.0
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.project_out(out.transpose(1, 2).flatten(2))

    def _attend_in_rows(
        self, query: Tensor, key_value: Tensor, before: cpu.Projection, after: cpu.Projection
    ) -> Tensor:
        k, v = self.project_key_value(key_value)
        result = torch.empty_like(query)
        for i in range(len(query)):
            memory = cpu.KeyValue(k[i], v[i], self.num_heads, before, after)
            parts = memory.num_queries
            for part, target in zip(query[i].split(parts), result[i].split(parts), strict=True):
                target.copy_(memory.attend(part))
        return result
