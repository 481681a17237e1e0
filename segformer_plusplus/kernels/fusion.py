"""Turns the levels of a pyramid into logits in one pass: resize, sum, ReLU and projection."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from .runtime import INTERPRETED, cdiv, jit, operator, power, tl

LEVELS = 4
"""Is the largest number of levels."""

CLASSES = 256
"""Is the largest number of classes, whose sums a program keeps in registers."""

PIXELS = 32
"""Is the number of pixels of a row that one program works on."""


def _reference(
    levels: Sequence[Tensor], bias: Tensor | None, weight: Tensor, offset: Tensor | None, relu: bool
) -> Tensor:
    fused, *others = levels
    size = fused.shape[1:3]
    if bias is not None:
        fused = fused + bias
    for level in others:
        image = level.permute(0, 3, 1, 2)
        wide = F.interpolate(image, size, mode='bilinear', align_corners=False)
        fused = fused + wide.permute(0, 2, 3, 1)
    return F.linear(fused.relu() if relu else fused, weight, offset)


def _example(
    device: torch.device, dtype: torch.dtype
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, bool]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    grids = (9, 40), (5, 20), (3, 10), (2, 5)
    levels = [random(2, *grid, 80) for grid in grids]
    return levels, random(80), random(19, 80), random(19), True


def _agrees(found: Tensor, expected: Tensor) -> bool:
    """Allows what PyTorch loses in the dtype, in float32 with TF32, of logits about 10 large."""
    limit = 0.05 if expected.dtype == torch.float32 else 0.5
    return found.shape == expected.shape and torch.allclose(
        found.float(), expected.float(), rtol=limit / 10, atol=limit
    )


@operator(
    schema='(Tensor[] levels, Tensor? bias, Tensor weight, Tensor? offset, bool relu) -> Tensor',
    reference=_reference,
    example=_example,
    agrees=_agrees,
    launches=1,
)
def fused_logits(
    levels: Sequence[Tensor], bias: Tensor | None, weight: Tensor, offset: Tensor | None, relu: bool
) -> Tensor:
    """Computes ``linear(relu(sum(resize(level)) + bias), weight, offset)`` pixel by pixel.

    The sum of all channels at full resolution, the largest tensor of a decoder, is never written.
    Sums are in float32; what is projected is rounded to the dtype, as tensor cores want it.

    Args:
        levels: up to ``LEVELS``, (B, H_i, W_i, C), contiguous as products are; the first has
            the size (H, W) of the result, the others are resized to it bilinearly.
        bias: (C) or None.
        weight: (K, C), with at most ``CLASSES`` classes.
        offset: (K) or None.
        relu: whether there is a ReLU between the sum and the projection.

    Returns:
        (B, H, W, K).
    """
    levels = [level.contiguous() for level in levels]
    weight = weight.contiguous()
    bias, offset = (each if each is None else each.contiguous() for each in (bias, offset))
    (batch, height, width, channels), classes = levels[0].shape, len(weight)
    sizes = [(h, w, h / height, w / width) for _, h, w, _ in (level.shape for level in levels[1:])]
    missing = LEVELS - len(levels)
    logits = levels[0].new_empty(batch, height, width, classes)
    block = power(classes)
    _fused_logits[(cdiv(width, PIXELS), height, batch)](
        *levels, *[None] * missing,
        height, width, *chain.from_iterable([*sizes, *[(1, 1, 1.0, 1.0)] * missing]),
        bias, weight, offset, logits, classes,
        relu, channels, PIXELS, 128 // logits.element_size(), block, INTERPRETED,
        # all 13 loads are on their way before the first sum; a stage more would hold all of them
        num_warps=8 if block > 64 else 4, num_stages=1,
    )  # fmt: skip
    return logits


@jit
def _fused_logits(
    first, second, third, fourth,
    height, width, height_2, width_2, ratio_y2, ratio_x2, height_3, width_3, ratio_y3, ratio_x3,
    height_4, width_4, ratio_y4, ratio_x4, bias, weight, offset, logits, classes,
    RELU: tl.constexpr, C: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    image, y = tl.program_id(2).to(tl.int64), tl.program_id(1)
    x = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    k = tl.arange(0, K)
    inside = (x < width)[:, None]
    row = (image * height + y) * width
    total = tl.zeros((PIXELS, K), tl.float32)
    if offset is not None:
        total += tl.load(offset + k, k < classes, 0.0).to(tl.float32)[None, :]
    for start in range(0, C, BLOCK):
        channel = start + tl.arange(0, BLOCK)
        known = channel < C
        here = inside & known[None, :]
        fused = tl.load(first + row * C + (x * C)[:, None] + channel[None, :], here, 0.0)
        fused = fused.to(tl.float32)
        if bias is not None:
            fused += tl.load(bias + channel, known, 0.0).to(tl.float32)[None, :]
        if second is not None:
            fused += _resized(
                second, image, y, x, height_2, width_2, ratio_y2, ratio_x2, channel, here, C
            )
        if third is not None:
            fused += _resized(
                third, image, y, x, height_3, width_3, ratio_y3, ratio_x3, channel, here, C
            )
        if fourth is not None:
            fused += _resized(
                fourth, image, y, x, height_4, width_4, ratio_y4, ratio_x4, channel, here, C
            )
        if RELU:
            # not tl.maximum, which loses NaN
            fused = tl.where(fused < 0, 0.0, fused)
        part = tl.load(
            weight + (k * C)[None, :] + channel[:, None],
            known[:, None] & (k < classes)[None, :], 0.0,
        )  # fmt: skip
        fused = fused.to(part.dtype)
        if UPCAST:  # Triton's interpreter multiplies the bits of bfloat16
            fused, part = fused.to(tl.float32), part.to(tl.float32)
        # float32 as three products of TF32: exact to its last bits, where one would change labels,
        # and on tensor cores, where 'ieee' does not run
        total = tl.dot(fused, part, total, input_precision='tf32x3')
    tl.store(
        logits + row * classes + (x * classes)[:, None] + k[None, :],
        total.to(logits.dtype.element_ty), inside & (k < classes)[None, :],
    )  # fmt: skip


@jit
def _resized(
    level, image, y, x, low_height, low_width, ratio_y, ratio_x, channel, here, C: tl.constexpr
):
    """Reads pixels of a row of the level's bilinear resize, (PIXELS, BLOCK)."""
    # positions as PyTorch computes them (align_corners=False)
    from_y = tl.maximum((y.to(tl.float32) + 0.5) * ratio_y - 0.5, 0.0)
    from_x = tl.maximum((x.to(tl.float32) + 0.5) * ratio_x - 0.5, 0.0)
    top = tl.minimum(from_y.to(tl.int32), low_height - 1)
    left = tl.minimum(from_x.to(tl.int32), low_width - 1)
    down, across = from_y - top, (from_x - left)[:, None]
    bottom, right = tl.minimum(top + 1, low_height - 1), tl.minimum(left + 1, low_width - 1)
    above = level + (image * low_height + top) * low_width * C
    below = level + (image * low_height + bottom) * low_width * C
    left = (left * C)[:, None] + channel[None, :]
    right = (right * C)[:, None] + channel[None, :]
    a = tl.load(above + left, here, 0.0).to(tl.float32)
    b = tl.load(above + right, here, 0.0).to(tl.float32)
    c = tl.load(below + left, here, 0.0).to(tl.float32)
    d = tl.load(below + right, here, 0.0).to(tl.float32)
    return (a * (1 - across) + b * across) * (1 - down) + (c * (1 - across) + d * across) * down
