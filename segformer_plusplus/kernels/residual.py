"""Adds a layer's output to the tokens and norms the sum, in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .runtime import cdiv, jit, operator, power, tl

WIDEST = 1024
"""Is the largest number of channels: one program norms whole tokens."""

ELEMENTS = 2048
"""Is how many of the tokens' elements a program has, at least those of one token."""


def _reference(
    tokens: Tensor, update: Tensor, index: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    if index is not None:
        update = update.flatten(0, 1).index_select(0, index).view(tokens.shape)
    total = (tokens + update).contiguous()
    return total, F.layer_norm(total, weight.shape, weight, bias, eps)


def _example(
    device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 37, 160), (2, 11, 160), (160,), (160,)
    tokens, update, weight, bias = (
        torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes
    )
    index = torch.randint(0, 22, (74,), generator=generator).to(device)
    return tokens, update, index, weight, bias, 1e-6


def _agrees(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    """Allows 1/64 of the largest value, a rounding of the sum and one of its norm."""
    return all(
        one.shape == other.shape
        and bool((one.float() - other.float()).abs().max() <= other.float().abs().max() / 64)
        for one, other in zip(found, expected, strict=True)
    )


@operator(
    schema='(Tensor tokens, Tensor update, Tensor? index, Tensor weight, Tensor bias, float eps)'
    ' -> (Tensor, Tensor)',
    reference=_reference,
    example=_example,
    agrees=_agrees,
    launches=1,
)
def add_norm(
    tokens: Tensor, update: Tensor, index: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Computes ``tokens + update`` and ``F.layer_norm`` of that.

    The sum is rounded to the dtype and then normed in float32, as PyTorch does. With an index an
    unmerging costs no pass of its own.

    Args:
        tokens: (B, N, C), C at most ``WIDEST``.
        update: (B, N, C); or (B, M, C), with an index.
        index: (B * N) int64, for each token which of the B * M of the update is added to it.
        weight: (C), of the norm.
        bias: (C), of the norm.
        eps: of the norm.

    Returns:
        The sum and the normed sum, both (B, N, C) and contiguous.
    """
    channels = tokens.shape[2]
    if channels > WIDEST:
        raise ValueError(f'{channels} channels are more than {WIDEST}')
    total, normed = tokens.new_empty(tokens.shape), tokens.new_empty(tokens.shape)
    # views: what comes from a linear layer is contiguous
    tokens, update = tokens.flatten(0, 1), update.flatten(0, 1)
    block = power(channels)
    rows = max(1, ELEMENTS // block)
    _add_norm[(cdiv(len(tokens), rows),)](
        tokens, update, index, weight.contiguous(), bias.contiguous(), total, normed,
        len(tokens), *tokens.stride(), *update.stride(), channels, eps, rows, block, num_warps=4,
    )  # fmt: skip
    return total, normed


@jit
def _add_norm(
    tokens, update, index, weight, bias, total, normed,
    count, stride_t, stride_tc, stride_u, stride_uc, channels, eps,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    known = c < channels
    inside = (token < count)[:, None] & known[None, :]
    source = token if index is None else tl.load(index + token, token < count, 0)
    own = tokens + token[:, None] * stride_t + c[None, :] * stride_tc
    other = update + source[:, None] * stride_u + c[None, :] * stride_uc
    value = tl.load(own, inside, 0.0).to(tl.float32) + tl.load(other, inside, 0.0).to(tl.float32)
    value = value.to(total.dtype.element_ty)
    out = token[:, None] * channels + c[None, :]
    tl.store(total + out, value, inside)
    value = value.to(tl.float32)
    mean = tl.sum(value, 1) / channels
    value = tl.where(inside, value - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(value * value, 1) / channels + eps)
    value *= scale[:, None] * tl.load(weight + c, known, 0.0).to(tl.float32)[None, :]
    value += tl.load(bias + c, known, 0.0).to(tl.float32)[None, :]
    tl.store(normed + out, value.to(normed.dtype.element_ty), inside)
