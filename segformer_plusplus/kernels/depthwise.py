"""Convolves hidden tokens 3x3 depthwise and applies GELU, in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .runtime import cdiv, jit, operator, tl

ROWS, COLUMNS, CHANNELS = 8, 8, 128
"""Are the tokens and channels of one program.

It goes down the rows and reads each once for the three that it is part of; of the rows of its
neighbours it reads two more, which are in the cache. With as many channels as a program has threads
a thread reads a few weights and they are exchanged; with fewer each thread would read all of its
own one by one.
"""


def _reference(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    image = hidden.permute(0, 3, 1, 2)
    image = F.gelu(F.conv2d(image, weight, bias, padding=1, groups=len(weight)))
    return image.permute(0, 2, 3, 1).contiguous()


def _example(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 11, 13, 160), (160, 1, 3, 3), (160,)
    hidden, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return hidden.to(device, dtype), weight.to(device, dtype), bias.to(device, dtype)


def _agrees(found: Tensor, expected: Tensor) -> bool:
    """Allows 1/64 of the largest value: PyTorch rounds before GELU, and may multiply in TF32."""
    found, expected = found.float(), expected.float()
    close = (found - expected).abs().max() <= expected.abs().max() / 64
    return found.shape == expected.shape and bool(close)


@operator(
    schema='(Tensor hidden, Tensor weight, Tensor? bias) -> Tensor',
    reference=_reference,
    example=_example,
    agrees=_agrees,
    launches=1,
)
def depthwise_gelu(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes ``F.gelu(F.conv2d(hidden, weight, bias, padding=1, groups=C))`` channels-last.

    Sums are in float32, and rounded to the dtype only after GELU, the exact one.

    Args:
        hidden: (B, H, W, C), in any layout.
        weight: (C, 1, 3, 3), of a depthwise convolution.
        bias: (C), or None.

    Returns:
        (B, H, W, C), contiguous.
    """
    batch, height, width, channels = hidden.shape
    result = hidden.new_empty(hidden.shape)
    blocks = cdiv(channels, CHANNELS), cdiv(width, COLUMNS), cdiv(height, ROWS)
    bias = None if bias is None else bias.contiguous()
    _depthwise_gelu[(batch * blocks[0] * blocks[1] * blocks[2],)](
        hidden, weight.contiguous(), bias, result, *hidden.stride(), height, width, channels,
        ROWS, COLUMNS, CHANNELS, num_warps=4,
    )  # fmt: skip
    return result


@jit
def _depthwise_gelu(
    hidden, weight, bias, result, stride_b, stride_y, stride_x, stride_c, height, width, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # neighbours run at about the same time: channels first, then columns, rows and images
    program = tl.program_id(0)
    blocks = tl.cdiv(channels, CHANNELS)
    c = program % blocks * CHANNELS + tl.arange(0, CHANNELS)
    program //= blocks
    blocks = tl.cdiv(width, COLUMNS)
    x = program % blocks * COLUMNS + tl.arange(0, COLUMNS)
    program //= blocks
    blocks = tl.cdiv(height, ROWS)
    # not a scalar: Triton's interpreter joins no masks with one
    top = program % blocks * ROWS + tl.zeros((1, 1), tl.int32)
    image = (program // blocks).to(tl.int64)

    known = c < channels
    taps = weight + c * 9
    w00 = tl.load(taps, known, 0.0).to(tl.float32)[None, :]
    w01 = tl.load(taps + 1, known, 0.0).to(tl.float32)[None, :]
    w02 = tl.load(taps + 2, known, 0.0).to(tl.float32)[None, :]
    w10 = tl.load(taps + 3, known, 0.0).to(tl.float32)[None, :]
    w11 = tl.load(taps + 4, known, 0.0).to(tl.float32)[None, :]
    w12 = tl.load(taps + 5, known, 0.0).to(tl.float32)[None, :]
    w20 = tl.load(taps + 6, known, 0.0).to(tl.float32)[None, :]
    w21 = tl.load(taps + 7, known, 0.0).to(tl.float32)[None, :]
    w22 = tl.load(taps + 8, known, 0.0).to(tl.float32)[None, :]
    first = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    if bias is not None:
        first += tl.load(bias + c, known, 0.0).to(tl.float32)[None, :]

    here = hidden + image * stride_b + x[:, None] * stride_x + c[None, :] * stride_c
    out = result + (image * height * width + x)[:, None] * channels + c[None, :]
    inside = (x < width)[:, None] & known[None, :]
    after_left = ((x > 0) & (x <= width))[:, None] & known[None, :]
    before_right = (x + 1 < width)[:, None] & known[None, :]
    above, at = first, first
    for row in tl.static_range(-1, ROWS + 1):
        y = top + row
        line = here + y.to(tl.int64) * stride_y
        there = (y >= 0) & (y < height)
        a = tl.load(line - stride_x, after_left & there, 0.0).to(tl.float32)
        b = tl.load(line, inside & there, 0.0).to(tl.float32)
        d = tl.load(line + stride_x, before_right & there, 0.0).to(tl.float32)
        # this row is the last of the sum above, the middle one of its own, the first of that below
        total = above + a * w20 + b * w21 + d * w22
        above = at + a * w10 + b * w11 + d * w12
        at = first + a * w00 + b * w01 + d * w02
        if row > 0:
            total = _gelu(total)
            target = out + (y - 1).to(tl.int64) * width * channels
            tl.store(target, total.to(result.dtype.element_ty), inside & (y <= height))


@jit
def _gelu(x):
    """Computes x times the normal distribution, by Abramowitz and Stegun's 7.1.26.

    It is good to 1e-7, and a third of the work of the erf that Triton has.
    """
    t = 1.0 + 0.23164189 * tl.abs(x)
    t = tl.rsqrt(t * t)  # a division would watch for overflow
    tail = ((0.5307027145 * t - 0.7265760135) * t + 0.7107068705) * t - 0.142248368
    tail = (tail * t + 0.127414796) * t * tl.exp2(-0.7213475204444817 * x * x)
    return x * tl.where(x > 0, 1.0 - tail, tail)
