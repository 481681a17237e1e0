"""Merges tokens into the mean of each group."""

from __future__ import annotations

import torch
from torch import Tensor

from .runtime import HALF, cdiv, jit, operator, power, tl

TOKENS, CHANNELS = 32, 64
"""Are how many tokens, and channels of these at most, one program adds."""


def _reference(tokens: Tensor, index: Tensor, sizes: Tensor) -> Tensor:
    flat = tokens.flatten(0, 1)
    wide = flat.float() if flat.dtype in HALF else flat
    total = wide.new_zeros(sizes.numel(), flat.shape[1])
    total = total.index_add(0, index, wide)
    mean = total / sizes.view(-1, 1).to(total.dtype)
    return mean.to(tokens.dtype).unflatten(0, sizes.shape)


def _example(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 90, 80, generator=generator)
    slot = torch.randint(10, 30, (2, 90), generator=generator)  # most have several tokens
    slot[:, :30] = torch.arange(30)
    index = (slot + torch.tensor([[0], [30]])).flatten()
    return tokens.to(device, dtype), index.to(device), index.bincount().view(2, 30).to(device)


def _agrees(found: Tensor, expected: Tensor) -> bool:
    """Allows sums in another order, and then another rounding to the dtype."""
    return torch.allclose(found.float(), expected.float(), atol=1e-5, rtol=2**-7)


@operator(
    schema='(Tensor tokens, Tensor index, Tensor sizes) -> Tensor',
    reference=_reference,
    example=_example,
    agrees=_agrees,
    launches=3,
)
def group_means(tokens: Tensor, index: Tensor, sizes: Tensor) -> Tensor:
    """Averages the tokens of every group, in float32.

    Tokens that are alone are copied; the others are added in no fixed order.

    Args:
        tokens: (B, N, C), in any layout.
        index: (B * N,) int64, the group of all B * M of the batch that each token is in.
        sizes: (B, M) int64, the number of tokens in each group, at least 1.

    Returns:
        (B, M, C) of the tokens' dtype.
    """
    batch, num_tokens, channels = tokens.shape
    means = tokens.new_zeros(*sizes.shape, channels, dtype=torch.float32)
    width = min(power(channels), CHANNELS)
    _group_means[(cdiv(num_tokens, TOKENS), cdiv(channels, width), batch)](
        tokens, index, sizes, means, num_tokens, channels, *tokens.stride(), TOKENS, width
    )
    return means.to(tokens.dtype)


@jit
def _group_means(
    tokens, index, sizes, means, num_tokens, channels, stride_b, stride_n, stride_c,
    TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(2).to(tl.int64)
    n = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    group = tl.load(index + image * num_tokens + n, n < num_tokens, 0)
    size = tl.load(sizes + group, n < num_tokens, 1)[:, None]
    inside = (n < num_tokens)[:, None] & (c < channels)[None, :]
    place = tokens + image * stride_b + n[:, None] * stride_n + c[None, :] * stride_c
    # divided before they are added, so that no pass over the sums is needed
    share = tl.load(place, inside, 0.0).to(tl.float32) / size.to(tl.float32)
    mean = means + group[:, None] * channels + c[None, :]
    tl.store(mean, share, inside & (size == 1))
    tl.atomic_add(mean, share, inside & (size > 1), sem='relaxed')
