"""Attends with merged queries, keys and values, whoever holds the parameters."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TokenMergingError
from ..kernels.attention import attends, attention, split_heads
from ..kernels.weighing import merge_weighed, weigh, weighs
from ..token_merging import IdentityPlan, MergePlan, StageMerging, TokenMerger
from ..token_merging.base import Grid, image_to_tokens, tokens_to_image, without_autocast
from ..token_merging.plans import SlotPlan
from . import cpu
from .plain import is_plain

SharedPlans = dict[str, MergePlan]
"""Holds the plans for 'q' and 'kv' that consecutive blocks share in one forward pass."""


Memory = tuple[Tensor, Tensor, Tensor | None]
"""Holds keys and values (B, M, C), and what is added to the scores, (B or 1, heads or 1, M)."""

SAMPLES = 4
"""Is the least number of queries that are sampled along each side of the grid, if it has them."""


class MergedAttention:
    """Adds merging to a module that holds the parameters of SegFormer's attention.

    Queries are merged before the projection and copied back after the attention; keys and values
    are merged after the spatial reduction and its norm (Segformer++, Kienzle et al., MIPR 2024), or
    where a sample of the queries weighs them, after their projection. The attention map is never
    built.

    Attributes:
        num_heads: heads of the attention.
        training: whether the module is in training mode.
        merging: strategies for queries and for keys and values.
        sr_ratio: by how much the grid of keys and values is reduced, per side.
        sr: the reduction, a strided convolution, where ``sr_ratio > 1``.
        norm: after it.
    """

    num_heads: int
    training: bool
    merging: StageMerging
    sr_ratio: int
    sr: nn.Module
    norm: nn.Module

    def reduce(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """Reduces and norms what keys and values are made of: (B, N, C) -> (B, N', C), its grid."""
        if self.sr_ratio == 1:
            return tokens, grid
        image = self.sr(tokens_to_image(tokens, grid))
        return self.norm(image_to_tokens(image)), (image.shape[2], image.shape[3])

    def project_query(self, tokens: Tensor) -> Tensor:
        """Projects tokens (B, N, C) to queries (B, N, C)."""
        raise NotImplementedError

    def project_key_value(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Projects tokens (B, M, C) to keys and values, (B, M, C) each."""
        raise NotImplementedError

    def project_out(self, tokens: Tensor) -> Tensor:
        """Projects what attention gives: (B, N, C) -> (B, N, C)."""
        raise NotImplementedError

    def outer_projections(self) -> tuple[cpu.Projection, cpu.Projection] | None:
        """Returns the layers before and after the attention, None where no chunks are possible."""
        raise NotImplementedError

    def dropout_rate(self) -> float:
        """Returns the dropout rate on the attention weights in training."""
        raise NotImplementedError

    def attend(self, tokens: Tensor, grid: Grid, plans: SharedPlans | None = None) -> Tensor:
        """Merges, attends and unmerges: (B, N, C) -> (B, N, C).

        Args:
            tokens: normalised.
            grid: (H, W), H * W == N, each side at least the spatial reduction.
            plans: of the blocks that share them; empty for the first one, which fills it.

        Returns:
            The output's projection, without dropout and residual.
        """
        out, query_plan = self.attend_merged(tokens, grid, plans)
        return out if query_plan is None else query_plan.unmerge(out)

    def attend_merged(
        self, tokens: Tensor, grid: Grid, plans: SharedPlans | None = None
    ) -> tuple[Tensor, MergePlan | None]:
        """Computes what ``attend`` does, but for the last step.

        Returns:
            The output (B, M, C), and the plan that unmerges it; None if it has N tokens.
        """
        query_plan = self._plan('q', tokens, grid, plans)
        query = tokens if query_plan is None else query_plan.merge(tokens)
        key_value, reduced = self.reduce(tokens, grid)
        plan = self._plan('kv', key_value, reduced, plans)
        if isinstance(plan, IdentityPlan):
            plan = None
        sample = None
        if plan is not None and self.merging.proportional_attention == 'sampled':
            sample = sample_tokens(tokens, grid)
        memory = self._remember(key_value, plan, sample)
        outer = self.outer_projections() if self._works_chunked(tokens) else None
        if outer is None:
            out = self._attend(query, memory)
        else:
            out = self._attend_chunked(query, memory, *outer)
        return out, query_plan

    def _works_chunked(self, tokens: Tensor) -> bool:
        # in half precision the fused attention adds up in float32, which chunks would not
        precise = tokens.dtype in (torch.float32, torch.float64)
        return precise and not self.training and cpu.works_chunked(tokens)

    def _plan(
        self, side: str, tokens: Tensor, grid: Grid, plans: SharedPlans | None
    ) -> MergePlan | None:
        merger: TokenMerger | None = getattr(self.merging, side)
        if merger is None:
            return None
        if plans is not None and side in plans:
            return plans[side]
        plan = merger.plan(tokens, grid)
        if not isinstance(plan, MergePlan):
            raise TokenMergingError(f'{merger!r}: plan() returns {plan!r}; expected a MergePlan')
        if plans is not None:
            plans[side] = plan
        return plan

    def _remember(self, key_value: Tensor, plan: MergePlan | None, sample: Tensor | None) -> Memory:
        """Returns what is attended to: merged keys, values, and what is added to the scores.

        Args:
            key_value: (B, N', C), what keys and values are made of.
            plan: None merges nothing.
            sample: (B, S, C), tokens whose queries say how much each key counts.
        """
        if plan is None:
            # a mask, even one of zeros, keeps PyTorch from its fastest attention
            return *self._keys_and_values(key_value), None
        if sample is None:
            return *self._keys_and_values(plan.merge(key_value)), self._size_bias(plan, key_value)
        # not without gradients: autocast would keep a weight that it casts there, for all queries
        query = self.project_query(sample.detach()).detach()
        key, value = self.project_key_value(key_value)
        return merge_by_attention(plan, query, key, value, self.num_heads)

    def _keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what ``_attend`` takes for keys and values of tokens (B, M, C)."""
        return self.project_key_value(tokens)

    def _size_bias(self, plan: MergePlan, key_value: Tensor) -> Tensor | None:
        """Returns the logarithm of how many tokens each key stands for, (B or 1, 1, M)."""
        if not self.merging.proportional_attention:
            return None
        # the logarithm of large groups wants more than half precision
        wide = torch.promote_types(key_value.dtype, torch.float32)
        return plan.sizes().to(wide).log().unsqueeze(1)

    def _attend(self, query: Tensor, memory: Memory) -> Tensor:
        key, value, bias = memory
        dropout = self.dropout_rate() if self.training else 0.0
        query = self.project_query(query)
        if bias is not None and not dropout and attends(query, key, value, self.num_heads):
            return self.project_out(attention(query, key, value, bias, self.num_heads))
        q, k, v = (split_heads(tokens, self.num_heads) for tokens in (query, key, value))
        mask = None if bias is None else bias[:, :, None].to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.project_out(out.transpose(1, 2).flatten(2))

    def _attend_chunked(
        self, query: Tensor, memory: Memory, before: cpu.Projection, after: cpu.Projection
    ) -> Tensor:
        key, value, bias = memory
        biases = [None] * len(query) if bias is None else bias.expand(len(query), -1, -1)
        result = torch.empty_like(query)
        for i, own in enumerate(biases):
            chunks = cpu.KeyValue(key[i], value[i], self.num_heads, before, after, own)
            size = chunks.num_queries
            for part, target in zip(query[i].split(size), result[i].split(size), strict=True):
                target.copy_(chunks.attend(part))
        return result


def sample_tokens(tokens: Tensor, grid: Grid) -> Tensor:
    """Returns evenly spaced tokens of the grid, ``SAMPLES`` to nearly twice as many a side."""
    steps = [max(1, side // SAMPLES) for side in grid]
    if not torch.compiler.is_compiling():
        y, x = (slice(step // 2, None, step) for step in steps)
        return tokens.unflatten(1, grid)[:, y, x].flatten(1, 2)
    # an index, not slices, whose layout a graph of any size could not foresee
    rows, columns = (
        torch.arange(step // 2, side, step, device=tokens.device)
        for step, side in zip(steps, grid, strict=True)
    )
    return tokens.index_select(1, (rows.unsqueeze(1) * grid[1] + columns).flatten())


def merge_by_attention(
    plan: MergePlan, query: Tensor, key: Tensor, value: Tensor, num_heads: int
) -> Memory:
    """Merges keys and values so that sampled queries see nearly what they saw before.

    In each head, tokens are averaged in proportion to the attention that the queries pay them, and
    a merged key counts so often that these pay it what they paid its tokens: at least once, and at
    most as often as it has tokens.

    Args:
        plan: of N' tokens.
        query: (B, S, C), of the sample.
        key: (B, N', C).
        value: (B, N', C).
        num_heads: divides C.
    """
    if isinstance(plan, SlotPlan) and plan.fits(key) and weighs(query, key, value, num_heads):
        return merge_weighed(query, key, value, plan.index, plan.sizes(), num_heads)
    with without_autocast(key.device):
        return weigh(plan.merge, plan.sizes(), query, key, value, num_heads)


class PackedAttention(MergedAttention):
    """Attends with parameters under mmseg's names.

    Attributes:
        attn: holds the projections and initialises them like mmseg; its forward, which builds the
            attention map, is called only where an adapter, a hook or the like asks for it.
    """

    attn: nn.MultiheadAttention

    def project_query(self, tokens: Tensor) -> Tensor:
        return cpu.linear(tokens, *self._projections()[0])

    def project_key_value(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        key, value = cpu.linear(tokens, *self._projections()[1]).chunk(2, dim=-1)
        return key, value

    def project_out(self, tokens: Tensor) -> Tensor:
        return cpu.linear(tokens, *self._projections()[2])

    def outer_projections(self) -> tuple[cpu.Projection, cpu.Projection] | None:
        if not self._is_bare():
            return None
        query, _, out = self._projections()
        return query, out

    def _is_bare(self) -> bool:
        return is_plain(self.attn, self.attn.out_proj)

    def _remember(self, key_value: Tensor, plan: MergePlan | None, sample: Tensor | None) -> Memory:
        if sample is not None and not self._is_bare():
            # a module that projects by itself lets no sample be scored
            warnings.warn(
                "proportional_attention='sampled' is as True where a hook or an adapter on "
                "mmseg's attention needs it to be called whole: labels change",
                stacklevel=2,
            )
            sample = None
        return super()._remember(key_value, plan, sample)

    def _keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return super()._keys_and_values(tokens) if self._is_bare() else (tokens, tokens)

    def _attend(self, query: Tensor, memory: Memory) -> Tensor:
        if self._is_bare():
            return super()._attend(query, memory)
        key_value, _, bias = memory
        mask: dict[str, Tensor] = {}
        if bias is not None:
            rows = bias.to(query.dtype)[:, :, None]
            size = len(query), self.num_heads, query.shape[1], rows.shape[-1]
            mask['attn_mask'] = rows.expand(size).flatten(0, 1)
        query, key_value = query.transpose(0, 1), key_value.transpose(0, 1)
        return self.attn(query=query, key=key_value, value=key_value, **mask)[0].transpose(0, 1)

    def dropout_rate(self) -> float:
        return self.attn.dropout

    def _projections(self) -> list[cpu.Projection]:
        """Returns weight and bias of queries, of keys and values together, and of the output."""
        weight, bias = self.attn.in_proj_weight, self.attn.in_proj_bias
        dims = weight.shape[1]
        biases = (None, None) if bias is None else (bias[:dims], bias[dims:])
        out = self.attn.out_proj
        return [(weight[:dims], biases[0]), (weight[dims:], biases[1]), (out.weight, out.bias)]


class EfficientAttention(PackedAttention, nn.Module):
    """Attends with several heads to keys and values on a spatially reduced grid.

    Source: SegFormer (Xie et al., NeurIPS 2021), Eq. 2, and Segformer++ (Kienzle et al.,
    MIPR 2024).

    Args:
        embed_dims: C.
        num_heads: heads; divides C.
        sr_ratio: by how much the grid of keys and values is reduced, per side.
        qkv_bias: whether the projections have a bias.
        attn_drop: dropout on the attention weights.
        proj_drop: dropout on the output.
        norm: after the spatial reduction, where there is one.
        merging: strategies for queries and for keys and values.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        sr_ratio: int,
        qkv_bias: bool,
        attn_drop: float,
        proj_drop: float,
        norm: nn.Module,
        merging: StageMerging,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.merging = merging
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, attn_drop, bias=qkv_bias)
        self.proj_drop = nn.Dropout(proj_drop)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(embed_dims, embed_dims, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = norm

    def forward(self, tokens: Tensor, grid: Grid, plans: SharedPlans | None = None) -> Tensor:
        """Attends as ``MergedAttention.attend``, and drops out: (B, N, C) -> (B, N, C)."""
        return self.proj_drop(self.attend(tokens, grid, plans))
