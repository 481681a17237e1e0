"""Attends with a bias per key: what keeps PyTorch from its fastest attention, in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .runtime import HALF, INTERPRETED, cdiv, jit, operator, runs_on, tl

HEAD_DIMS = 16, 32, 64, 128
QUERIES, KEYS = 128, 64
"""Is how many queries a program attends from, and to how many keys at a time."""

LOG2_E = 1.4426950408889634


def split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    """Views (B, N, C) as (B, heads, N, C / heads)."""
    return tokens.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def attends(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> bool:
    """Tells whether ``attention`` takes these tokens: in half precision, where it is faster."""
    known = query.shape[-1] // num_heads in HEAD_DIMS
    return known and runs_on(query, key, value, dtypes=HALF)


def _reference(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, num_heads: int) -> Tensor:
    q, k, v = (split_heads(tokens, num_heads) for tokens in (query, key, value))
    # kernels of GPUs refuse a mask of another type than the queries'
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[:, :, None].to(q.dtype))
    return out.transpose(1, 2).flatten(2).contiguous()


def _example(
    device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 150, 128, generator=generator).to(device, dtype)
    key, value = torch.randn(2, 75, 256, generator=generator).to(device, dtype).chunk(2, dim=-1)
    bias = torch.randint(1, 40, (2, 2, 75), generator=generator).to(device).float().log()
    return query, key, value, bias, 2


def _agrees(found: Tensor, expected: Tensor) -> bool:
    """Allows 2 % of the largest number: in half precision PyTorch rounds bias and weights."""
    return bool((found - expected).abs().max() <= 0.02 * expected.abs().max())


@operator(
    schema='(Tensor query, Tensor key, Tensor value, Tensor bias, int num_heads) -> Tensor',
    reference=_reference,
    example=_example,
    agrees=_agrees,
    launches=1,
)
def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, num_heads: int) -> Tensor:
    """Computes softmax(q k^T / sqrt(d) + bias) v in each head.

    Source: FlashAttention-2 (Dao, ICLR 2024): no more than a block of the attention map exists.

    Args:
        query: (B, N, C), heads beside each other; may be a view, as key and value.
        key: (B, M, C).
        value: (B, M, C).
        bias: (B or 1, heads or 1, M), finite, added to the scores; float32 is not rounded.
        num_heads: C / num_heads is one of ``HEAD_DIMS``.

    Returns:
        (B, N, C), contiguous.
    """
    batch, num_queries, dims = query.shape
    head_dims = dims // num_heads
    bias = bias.expand(batch, num_heads, -1)
    out = query.new_empty(query.shape)
    _attention[(cdiv(num_queries, QUERIES), num_heads, batch)](
        query, key, value, bias, out, num_queries, key.shape[1],
        *query.stride(), *key.stride(), *value.stride(), *bias.stride(),
        head_dims**-0.5 * LOG2_E,
        head_dims, QUERIES, KEYS, LOG2_E, INTERPRETED, num_warps=8, num_stages=3,
    )  # fmt: skip
    return out


@jit
def _attention(
    query, key, value, bias, out, num_queries, num_keys,
    stride_qb, stride_qn, stride_qc, stride_kb, stride_km, stride_kc,
    stride_vb, stride_vm, stride_vc, stride_bb, stride_bh, stride_bm, scale,
    DIMS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, LOG2_E: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    n = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    m, d = tl.arange(0, KEYS), tl.arange(0, DIMS)
    c = head * DIMS + d
    inside = (n < num_queries)[:, None]
    n = n.to(tl.int64)
    query += image * stride_qb
    q = tl.load(query + n[:, None] * stride_qn + c[None, :] * stride_qc, inside, 0.0)
    keys = key + image * stride_kb + m[None, :] * stride_km + c[:, None] * stride_kc
    values = value + image * stride_vb + m[:, None] * stride_vm + c[None, :] * stride_vc
    biases = bias + image * stride_bb + head * stride_bh + m * stride_bm
    highest = tl.full((QUERIES,), -float('inf'), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    mean = tl.zeros((QUERIES, DIMS), tl.float32)
    if INTERPRETED:
        q = q.to(tl.float32)
    for start in range(0, num_keys, KEYS):
        there = m < num_keys - start
        k = tl.load(keys, there[None, :], 0.0)
        v = tl.load(values, there[:, None], 0.0)
        # what lies behind the last key gets no weight
        b = tl.load(biases, there, -float('inf')).to(tl.float32) * LOG2_E
        if INTERPRETED:
            k = k.to(tl.float32)
        scores = tl.dot(q, k) * scale + b[None, :]
        higher = tl.maximum(highest, tl.max(scores, 1))
        weight = tl.exp2(scores - higher[:, None])
        fading = tl.exp2(highest - higher)
        total = total * fading + tl.sum(weight, 1)
        weight = weight.to(v.dtype)
        if INTERPRETED:
            weight, v = weight.to(tl.float32), v.to(tl.float32)
        mean = tl.dot(weight, v, mean * fading[:, None])
        highest = higher
        keys += KEYS * stride_km
        values += KEYS * stride_vm
        biases += KEYS * stride_bm
    mean /= total[:, None]
    out += (image * num_queries + n[:, None]) * tl.num_programs(1) * DIMS + c[None, :]
    tl.store(out, mean.to(out.dtype.element_ty), inside)
