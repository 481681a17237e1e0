"""Merges keys and values by the attention that a sample of the queries pays them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .attention import split_heads
from .runtime import INTERPRETED, cdiv, jit, operator, power, runs_on, tl

LEAST_ATTENTION = 1e-12
"""Is what every token counts at least: a group that no query looks at has a mean too."""

MOST_SAMPLES, MOST_DIMS = 64, 64
"""Are the largest sample and the largest heads that a program holds."""

KEYS = 32
"""Is how many keys a program works on at a time."""

PARTS = 32
"""Is among how many programs the keys of an image are divided in the first pass."""

Merged = tuple[Tensor, Tensor, Tensor]
"""Holds merged keys and values (B, M, C), and what is added to the scores, (B, heads, M)."""


def weighs(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> bool:
    """Tells whether ``merge_weighed`` takes these tokens."""
    small = query.shape[1] <= MOST_SAMPLES and key.shape[-1] // num_heads <= MOST_DIMS
    return small and runs_on(query, key, value)


def weigh(
    merge: Callable[[Tensor], Tensor],
    sizes: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
) -> Merged:
    """Does what ``merge_weighed`` does in PyTorch, for groups of any kind.

    Args:
        merge: averages the tokens of each group, (B, N', C') -> (B, M, C').
        sizes: (B or 1, M), how many tokens each group has.
        query: (B, S, C), of the sample.
        key: (B, N', C).
        value: (B, N', C).
        num_heads: divides C.
    """
    kind, wide = query.dtype, torch.promote_types(key.dtype, torch.float32)
    with torch.no_grad():
        scaled = split_heads(query.to(wide), num_heads) * (key.shape[-1] // num_heads) ** -0.5
        scores = scaled @ split_heads(key.to(wide), num_heads).transpose(-1, -2)
        highest = scores.amax(dim=-1, keepdim=True)
        scores.sub_(highest).exp_()
        normaliser = 1 / scores.sum(dim=-1).unsqueeze(-2) / query.shape[1]  # (B, heads, 1, S)
        weight = (normaliser @ scores).squeeze(2).transpose(1, 2)  # (B, N', heads)
        weight = weight.clamp_min(LEAST_ATTENTION)
        paid = merge(weight)
    key, value = (_weighed_mean(merge, tokens, weight, paid) for tokens in (key, value))
    with torch.no_grad():
        scores = scaled @ split_heads(key, num_heads).transpose(-1, -2)
        # what a merged key is paid if it counts once
        once = (normaliser @ scores.sub_(highest).exp_()).squeeze(2)
        sizes = sizes.to(wide).unsqueeze(1)
        multiplicity = (paid.transpose(1, 2) * sizes / once).clamp_min(1).minimum(sizes)
        # in rows, as the kernels of GPUs want a mask
        bias = multiplicity.log().contiguous()
    # detached once more: a graph, traced without gradients, would take a mask for one that has them
    return key.to(kind), value.to(kind), bias.detach()


def _weighed_mean(
    merge: Callable[[Tensor], Tensor], tokens: Tensor, weight: Tensor, paid: Tensor
) -> Tensor:
    """Averages (B, N', C) by a weight in each head, (B, N', heads), whose mean is ``paid``."""
    heads = tokens.unflatten(-1, (weight.shape[-1], -1))
    merged = merge((heads * weight.unsqueeze(-1)).flatten(2))
    return (merged.unflatten(-1, (weight.shape[-1], -1)) / paid.unsqueeze(-1)).flatten(2)


def _reference(
    query: Tensor, key: Tensor, value: Tensor, index: Tensor, sizes: Tensor, num_heads: int
) -> Merged:
    def merge(tokens: Tensor) -> Tensor:
        total = tokens.new_zeros(sizes.numel(), tokens.shape[-1])
        total = total.index_add(0, index, tokens.flatten(0, 1)).unflatten(0, sizes.shape)
        return total / sizes.unsqueeze(-1).to(total.dtype)

    return weigh(merge, sizes, query, key, value, num_heads)


def _example(
    device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 20, 64, generator=generator).to(device, dtype)
    key, value = torch.randn(2, 150, 128, generator=generator).to(device, dtype).chunk(2, dim=-1)
    index = torch.cat([torch.arange(150).clamp_max(99), torch.arange(150) % 100 + 100])
    return query, key, value, index.to(device), index.bincount().view(2, 100).to(device), 2


def _agrees(found: Merged, expected: Merged) -> bool:
    """Allows 2 % of the largest number, as products may be rounded to TF32 or bfloat16."""
    pairs = zip(found, expected, strict=True)
    return all(bool((a - b).abs().max() <= 0.02 * b.abs().max()) for a, b in pairs)


@operator(
    schema='(Tensor query, Tensor key, Tensor value, Tensor index, Tensor sizes, int num_heads)'
    ' -> (Tensor, Tensor, Tensor)',
    reference=_reference,
    example=_example,
    agrees=_agrees,
    launches=3,
)
def merge_weighed(
    query: Tensor, key: Tensor, value: Tensor, index: Tensor, sizes: Tensor, num_heads: int
) -> Merged:
    """Merges keys and values so that sampled queries see nearly what they saw before.

    In each head, tokens are averaged in proportion to the attention that the queries pay them, and
    a merged key counts so often that these pay it what they paid its tokens: at least once, and at
    most as often as it has tokens.

    Args:
        query: (B, S, C), of the sample, S <= ``MOST_SAMPLES``; may be a view, as key and value.
        key: (B, N', C).
        value: (B, N', C).
        index: (B * N') integers in [0, B * M), the group of each token.
        sizes: (B, M), how many tokens each group has, one at least.
        num_heads: C / num_heads <= ``MOST_DIMS``.

    Returns:
        Keys and values (B, M, C), and the logarithm of how often each counts, (B, heads, M) fp32.
    """
    (batch, num_samples, dims), num_keys, num_merged = query.shape, key.shape[1], sizes.shape[1]
    head_dims, samples = dims // num_heads, power(num_samples)
    sums = query.new_empty(batch, num_merged, 2, dims, dtype=torch.float32)
    paid = query.new_empty(batch, num_merged, num_heads, dtype=torch.float32)
    seen = query.new_empty(batch, num_heads, 2, PARTS, samples, dtype=torch.float32)
    keys, values = (query.new_empty(batch, num_merged, dims) for _ in range(2))
    bias = query.new_empty(batch, num_heads, num_merged, dtype=torch.float32)
    sample = query, *query.stride(), num_samples, head_dims, head_dims**-0.5
    blocks = samples, power(head_dims), PARTS, KEYS
    _look[(PARTS, num_heads, batch)](
        *sample, key, *key.stride(), seen, sums, paid, num_keys, num_merged,
        cdiv(num_keys, PARTS * KEYS) * KEYS, *blocks, INTERPRETED,
    )  # fmt: skip
    _add[(cdiv(num_keys, KEYS), num_heads, batch)](
        *sample, key, *key.stride(), value, *value.stride(), seen, index, sums, paid, num_keys,
        LEAST_ATTENTION, *blocks, INTERPRETED,
    )  # fmt: skip
    _average[(cdiv(num_merged, KEYS), num_heads, batch)](
        *sample, seen, sums, paid, sizes, *sizes.stride(), keys, values, bias, num_merged, *blocks
    )
    return keys, values, bias


@jit
def _look(
    query, stride_qb, stride_qs, stride_qc, num_samples, head_dims, scale,
    key, stride_kb, stride_kn, stride_kc, seen, sums, paid, num_keys, num_merged, share,
    SAMPLES: tl.constexpr, DIMS: tl.constexpr, PARTS: tl.constexpr, KEYS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Finds the highest score of each query and the sum of the others, in a part of the keys."""
    part, head, image = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    heads = tl.num_programs(1)
    s, d = tl.arange(0, SAMPLES), tl.arange(0, DIMS)
    c, known = head * head_dims + d, d < head_dims
    query += image * stride_qb
    q = tl.load(
        query + s[None, :] * stride_qs + c[:, None] * stride_qc,
        (s < num_samples)[None, :] & known[:, None], 0.0,
    )  # fmt: skip
    highest = tl.full((SAMPLES,), -float('inf'), tl.float32)
    total = tl.zeros((SAMPLES,), tl.float32)
    for start in range(part * share, tl.minimum((part + 1) * share, num_keys), KEYS):
        n = start + tl.arange(0, KEYS)
        there = (n < num_keys)[:, None]
        k = tl.load(
            key + image * stride_kb + n[:, None] * stride_kn + c[None, :] * stride_kc,
            there & known[None, :], 0.0,
        )  # fmt: skip
        scores = tl.where(there, _product(k, q, INTERPRETED) * scale, -float('inf'))
        higher = tl.maximum(highest, tl.max(scores, 0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(scores - higher[None, :]), 0)
        highest = higher
        # there are no more sums than keys: these are zeroed on the way
        row, kept = image * num_merged + n, n < num_merged
        at = sums + row[:, None] * (2 * heads * head_dims) + c[None, :]
        zeros = tl.zeros((KEYS, DIMS), tl.float32)
        tl.store(at, zeros, kept[:, None] & known[None, :])
        tl.store(at + heads * head_dims, zeros, kept[:, None] & known[None, :])
        tl.store(paid + row * heads + head, tl.zeros((KEYS,), tl.float32), kept)
    at = ((image * heads + head) * 2 * PARTS + part) * SAMPLES + s
    tl.store(seen + at, highest)
    tl.store(seen + at + PARTS * SAMPLES, total)


@jit
def _add(
    query, stride_qb, stride_qs, stride_qc, num_samples, head_dims, scale,
    key, stride_kb, stride_kn, stride_kc, value, stride_vb, stride_vn, stride_vc,
    seen, index, sums, paid, num_keys, least,
    SAMPLES: tl.constexpr, DIMS: tl.constexpr, PARTS: tl.constexpr, KEYS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Adds tokens to the sums of their groups, each in proportion to what it is paid."""
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    heads = tl.num_programs(1)
    n, s, d = tl.arange(0, KEYS), tl.arange(0, SAMPLES), tl.arange(0, DIMS)
    n += tl.program_id(0) * KEYS
    c, there, known = head * head_dims + d, n < num_keys, d < head_dims
    inside = there[:, None] & known[None, :]
    query += image * stride_qb
    q = tl.load(
        query + s[None, :] * stride_qs + c[:, None] * stride_qc,
        (s < num_samples)[None, :] & known[:, None], 0.0,
    )  # fmt: skip
    key += image * stride_kb
    k = tl.load(key + n[:, None] * stride_kn + c[None, :] * stride_kc, inside, 0.0)
    value += image * stride_vb
    v = tl.load(value + n[:, None] * stride_vn + c[None, :] * stride_vc, inside, 0.0)
    highest, normaliser = _seen(seen, image * heads + head, num_samples, SAMPLES, PARTS)
    scores = _product(k, q, INTERPRETED) * scale
    weight = tl.sum(tl.exp(scores - highest[None, :]) * normaliser[None, :], 1)
    weight = tl.where(weight < least, least, weight)  # NaN stays
    row = tl.load(index + image * num_keys + n, there, 0).to(tl.int64)
    tl.atomic_add(paid + row * heads + head, weight, there, sem='relaxed')
    at = sums + row[:, None] * (2 * heads * head_dims) + c[None, :]
    tl.atomic_add(at, k.to(tl.float32) * weight[:, None], inside, sem='relaxed')
    at += heads * head_dims
    tl.atomic_add(at, v.to(tl.float32) * weight[:, None], inside, sem='relaxed')


@jit
def _average(
    query, stride_qb, stride_qs, stride_qc, num_samples, head_dims, scale,
    seen, sums, paid, sizes, stride_sb, stride_sm, keys, values, bias, num_merged,
    SAMPLES: tl.constexpr, DIMS: tl.constexpr, PARTS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Divides the sums, and says how often each merged key has to count."""
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    heads = tl.num_programs(1)
    m, s, d = tl.arange(0, KEYS), tl.arange(0, SAMPLES), tl.arange(0, DIMS)
    m += tl.program_id(0) * KEYS
    c, there, known = head * head_dims + d, m < num_merged, d < head_dims
    inside = there[:, None] & known[None, :]
    row = image * num_merged + m
    own = tl.load(paid + row * heads + head, there, 1.0)
    at = sums + row[:, None] * (2 * heads * head_dims) + c[None, :]
    k = tl.load(at, inside, 0.0) / own[:, None]
    v = tl.load(at + heads * head_dims, inside, 0.0) / own[:, None]
    at = row[:, None] * (heads * head_dims) + c[None, :]
    tl.store(keys + at, k.to(keys.dtype.element_ty), inside)
    tl.store(values + at, v.to(values.dtype.element_ty), inside)
    query += image * stride_qb
    q = tl.load(
        query + s[None, :] * stride_qs + c[:, None] * stride_qc,
        (s < num_samples)[None, :] & known[:, None], 0.0,
    )  # fmt: skip
    highest, normaliser = _seen(seen, image * heads + head, num_samples, SAMPLES, PARTS)
    scores = _product(k, q.to(tl.float32), False) * scale
    # what a merged key is paid if it counts once
    once = tl.sum(tl.exp(scores - highest[None, :]) * normaliser[None, :], 1)
    size = tl.load(sizes + image * stride_sb + m * stride_sm, there, 1).to(tl.float32)
    count = own / once
    count = tl.where(count < 1, 1.0, tl.where(count > size, size, count))
    tl.store(bias + (image * heads + head) * num_merged + m, tl.log(count), there)


@jit
def _product(k, q, INTERPRETED: tl.constexpr):
    if INTERPRETED:
        k, q = k.to(tl.float32), q.to(tl.float32)
    return tl.dot(k, q, input_precision='tf32x3')


@jit
def _seen(seen, head, num_samples, SAMPLES: tl.constexpr, PARTS: tl.constexpr):
    """Returns each query's highest score, and what makes its attention a share of the sample's."""
    s = tl.arange(0, SAMPLES)
    at = seen + (head * 2 * PARTS + tl.arange(0, PARTS)[:, None]) * SAMPLES + s[None, :]
    parts = tl.load(at)
    highest = tl.max(parts, 0)
    total = tl.sum(tl.load(at + PARTS * SAMPLES) * tl.exp(parts - highest[None, :]), 0)
    return highest, tl.where(s < num_samples, 1 / (total * num_samples), 0.0)
