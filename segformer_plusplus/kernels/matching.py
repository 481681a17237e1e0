"""Matches tokens for bipartite soft matching in two kernels; no similarities are stored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .runtime import INTERPRETED, cdiv, jit, operator, power, tl

SOURCES, DESTINATIONS = 32, 64
"""Are the sides of the tile of similarities that one program holds."""

DEPTH = 128
"""Is how many bytes of a token are multiplied at a time."""

MOST = 4096
"""Is the largest number of sources that are counted at a time."""

ONE = 2**30
"""Stands for the similarity 1: fixed point, finer than float32 where similar tokens lie."""


def _reference(
    tokens: Tensor, sources: Tensor, destinations: Tensor, num_kept: int
) -> tuple[Tensor, Tensor]:
    batch, num_tokens, _ = tokens.shape
    num_merged = num_kept + destinations.shape[0]
    metric = F.normalize(tokens.float(), dim=-1)
    best, nearest = (metric[:, sources] @ metric[:, destinations].transpose(1, 2)).max(dim=-1)
    lowest = best.topk(num_kept, dim=1, largest=False, sorted=False).indices
    kept = torch.zeros_like(nearest).scatter_(1, lowest, 1)
    index = torch.empty(batch, num_tokens, dtype=torch.long, device=tokens.device)
    index[:, sources] = torch.where(kept > 0, kept.cumsum(1) - 1, nearest + num_kept)
    index[:, destinations] = torch.arange(num_kept, num_merged, device=tokens.device)
    index += torch.arange(batch, device=tokens.device).unsqueeze(1) * num_merged
    sizes = index.new_zeros(batch, num_merged)
    sizes.view(-1).scatter_add_(0, index.view(-1), torch.ones_like(index).view(-1))
    return index, sizes


def _example(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, int]:
    tokens = torch.randn(2, 300, 40, generator=torch.Generator().manual_seed(0))
    order = torch.arange(300, device=device).view(100, 3)
    return tokens.to(device, dtype), order[:, 1:].flatten(), order[:, 0].contiguous(), 70


def _agrees(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    """Allows other groups for 2 % of the tokens, whose similarities are equal to rounding."""
    index, sizes = (each.flatten() for each in found)
    counted = torch.bincount(index, minlength=len(sizes))
    same = _first_members(*found) == _first_members(*expected)
    return torch.equal(counted, sizes) and bool(same.float().mean() > 0.98)


def _first_members(index: Tensor, sizes: Tensor) -> Tensor:
    """Names groups by the first token in each, whatever their order: (B * N,)."""
    index, order = index.flatten(), torch.arange(index.numel(), device=index.device)
    first = torch.full_like(sizes.flatten(), index.numel())
    return first.scatter_reduce_(0, index, order, 'amin')[index]


@operator(
    schema='(Tensor tokens, Tensor sources, Tensor destinations, SymInt num_kept) '
    '-> (Tensor, Tensor)',
    reference=_reference,
    example=_example,
    agrees=_agrees,
    launches=2,
)
def matched_index(
    tokens: Tensor, sources: Tensor, destinations: Tensor, num_kept: int
) -> tuple[Tensor, Tensor]:
    """Sends every source but the ``num_kept`` least similar ones to its best destination.

    The similarity is the cosine: products of the tokens as they are, added up in float32 (those of
    float32 in three terms of TF32, which together are as exact as its rounding), and compared to
    2^-30. A token of all zeros has similarity 0 to every other one; a similarity that is NaN is the
    least, so that its token stays alone. The first of equal destinations is taken, and of equal
    sources the first ones are kept.

    Slots of an image are those of its kept sources, in their order, then those of the destinations.
    ``match_tokens`` gives the kept ones in an order of ``topk``: the merged tokens are the same.

    Args:
        tokens: (B, N, C), in any layout.
        sources: (S,) indices into N.
        destinations: (D,) indices into N; S + D == N, D >= 1.
        num_kept: how many sources stay alone, at most S.

    Returns:
        index: (B, N) int64, the merged token of all B * M of the batch that each token goes into;
            M = num_kept + D.
        sizes: (B, M) int64, the number of tokens in each.
    """
    batch, num_tokens, channels = tokens.shape
    num_sources, num_destinations = sources.shape[0], destinations.shape[0]
    sources, destinations = sources.contiguous(), destinations.contiguous()
    best = tokens.new_empty(batch, num_sources, dtype=torch.int32)
    nearest = torch.empty_like(best)
    _match[(cdiv(num_sources, SOURCES), batch)](
        tokens, sources, destinations, best, nearest, num_sources, num_destinations,
        *tokens.stride(), channels, SOURCES, DESTINATIONS, DEPTH // tokens.element_size(),
        ONE, INTERPRETED,
    )  # fmt: skip
    index = tokens.new_empty(batch, num_tokens, dtype=torch.long)
    sizes = tokens.new_empty(batch, num_kept + num_destinations, dtype=torch.long)
    width = min(power(num_sources, least=256), MOST)
    _select[(batch,)](
        best, nearest, sources, destinations, index, sizes, num_sources, num_destinations,
        num_kept, width, ONE, num_warps=width // 256,
    )  # fmt: skip
    return index, sizes


@jit
def _match(
    tokens, sources, destinations, best, nearest, num_sources, num_destinations,
    stride_b, stride_n, stride_c, channels: tl.constexpr,
    SOURCES: tl.constexpr, DESTINATIONS: tl.constexpr, DEPTH: tl.constexpr,
    ONE: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Finds the most similar destination of each source."""
    image = tl.program_id(1).to(tl.int64)
    tokens += image * stride_b
    s = tl.program_id(0) * SOURCES + tl.arange(0, SOURCES)
    d = tl.arange(0, DESTINATIONS)
    c = tl.arange(0, DEPTH)
    is_source = s < num_sources
    rows = tokens + tl.load(sources + s, is_source, 0)[:, None] * stride_n
    square = tl.zeros((SOURCES,), tl.float32)
    for k in range(0, channels, DEPTH):
        mask = is_source[:, None] & (k + c < channels)[None, :]
        a = tl.load(rows + (k + c)[None, :] * stride_c, mask, 0.0).to(tl.float32)
        square += tl.sum(a * a, 1)
    scale = 1 / tl.maximum(tl.sqrt(square), 1e-12)

    highest = tl.full((SOURCES,), -float('inf'), tl.float32)
    found = tl.zeros((SOURCES,), tl.int32)
    for first in range(0, num_destinations, DESTINATIONS):
        is_destination = first + d < num_destinations
        place = tl.load(destinations + first + d, is_destination, 0)
        columns = tokens + place[:, None] * stride_n
        product = tl.zeros((SOURCES, DESTINATIONS), tl.float32)
        squares = tl.zeros((DESTINATIONS,), tl.float32)
        for k in range(0, channels, DEPTH):
            is_channel = (k + c < channels)[None, :]
            a = tl.load(rows + (k + c)[None, :] * stride_c, is_source[:, None] & is_channel, 0.0)
            mask = is_destination[:, None] & is_channel
            b = tl.load(columns + (k + c)[None, :] * stride_c, mask, 0.0)
            wide = b.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            if UPCAST:
                a, b = a.to(tl.float32), wide
            product = tl.dot(a, tl.trans(b), product, input_precision='tf32x3')
        similarity = product * (1 / tl.maximum(tl.sqrt(squares), 1e-12))[None, :]
        similarity = tl.where(
            is_destination[None, :] & (similarity == similarity), similarity, -float('inf')
        )
        value, nth = tl.max(similarity, 1, return_indices=True)
        # never where all are NaN: what is found is a destination whatever the tokens are
        better = value > highest
        found = tl.where(better, first + nth, found)
        highest = tl.where(better, value, highest)
    similarity = highest * scale
    similarity = tl.where(similarity == similarity, similarity, -1.0)
    similarity = tl.minimum(tl.maximum(similarity, -1.0), 1.0)
    place = image * num_sources + s
    tl.store(best + place, (similarity * ONE).to(tl.int32), is_source)
    tl.store(nearest + place, found, is_source)


@jit
def _select(
    best, nearest, sources, destinations, index, sizes, num_sources, num_destinations,
    num_kept, WIDTH: tl.constexpr, ONE: tl.constexpr,
):  # fmt: skip
    """Keeps the least similar sources of one image, and writes where its tokens go."""
    image = tl.program_id(0).to(tl.int64)
    best += image * num_sources
    nearest += image * num_sources
    index += image * (num_sources + num_destinations)
    start = image * (num_kept + num_destinations)
    n = tl.arange(0, WIDTH)
    for first in range(0, num_kept + num_destinations, WIDTH):
        slot = first + n
        tl.store(sizes + start + slot, slot * 0 + 1, slot < num_kept + num_destinations)
    for first in range(0, num_destinations, WIDTH):
        d = first + n
        place = tl.load(destinations + d, d < num_destinations, 0)
        tl.store(index + place, start + num_kept + d, d < num_destinations)

    # the least threshold that num_kept sources do not exceed, by bisection, or any one that
    # exactly these do not exceed; at the end `below` sources are known to be under it
    low = tl.full((), -ONE, tl.int32)
    high = tl.full((), ONE, tl.int32)
    below = tl.full((), 0, tl.int32)
    while low < high:
        middle = (low + high) >> 1
        count = tl.zeros((WIDTH,), tl.int32)
        for first in range(0, num_sources, WIDTH):
            own = tl.load(best + first + n, first + n < num_sources, 2 * ONE - 1)
            count += (own <= middle).to(tl.int32)
        total = tl.sum(count, 0)
        below = tl.where(total < num_kept, total, below)
        low = tl.where(total < num_kept, middle + 1, tl.where(total == num_kept, middle, low))
        high = tl.where(total < num_kept, high, middle)

    tl.debug_barrier()  # sizes are 1 before any is added to
    num_less = tl.full((), 0, tl.int32)
    num_equal = tl.full((), 0, tl.int32)
    for first in range(0, num_sources, WIDTH):
        s = first + n
        is_source = s < num_sources
        own = tl.load(best + s, is_source, 2 * ONE - 1)
        less, equal = (own < low).to(tl.int32), (own == low).to(tl.int32)
        up_to, equal_up_to = num_less + tl.cumsum(less, 0), num_equal + tl.cumsum(equal, 0)
        # of those at the threshold as many as are missing
        kept = (less > 0) | ((equal > 0) & (equal_up_to <= num_kept - below))
        slot = up_to + tl.minimum(equal_up_to, num_kept - below) - 1
        group = num_kept + tl.load(nearest + s, is_source, 0)
        place = tl.load(sources + s, is_source, 0)
        tl.store(index + place, start + tl.where(kept, slot, group), is_source)
        one = (group * 0 + 1).to(tl.int64)
        tl.atomic_add(sizes + start + group, one, is_source & (kept == 0), sem='relaxed')
        num_less += tl.sum(less, 0)
        num_equal += tl.sum(equal, 0)
