"""Turns logits into labels in one pass: bilinear resize and argmax."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .runtime import cdiv, jit, operator, tl

WIDTH = 256
"""Is the number of pixels of a row that one program decides."""


def _reference(logits: Tensor, height: int, width: int) -> Tensor:
    size = height, width
    return F.interpolate(logits, size, mode='bilinear', align_corners=False).argmax(dim=1)


def _example(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, int, int]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 19, 9, 13, generator=generator).to(device, dtype)
    return logits.contiguous(memory_format=torch.channels_last), 36, 50


def _agrees(found: Tensor, expected: Tensor) -> bool:
    """Allows another label in 2 % of the pixels, where PyTorch rounds the resized logits."""
    return found.shape == expected.shape and bool((found == expected).float().mean() > 0.98)


@operator(
    schema='(Tensor logits, SymInt height, SymInt width) -> Tensor',
    reference=_reference,
    example=_example,
    agrees=_agrees,
    launches=1,
)
def resized_argmax(logits: Tensor, height: int, width: int) -> Tensor:
    """Computes ``F.interpolate(logits, (height, width), mode='bilinear').argmax(dim=1)``.

    Resized logits are not rounded to the dtype before they are compared, as PyTorch does; in
    float32 labels are equal but for ties. The first of equal classes is taken.

    Args:
        logits: (B, K, h, w), in any layout.
        height: H.
        width: W.

    Returns:
        (B, H, W) int64.
    """
    batch, classes, low_height, low_width = logits.shape
    labels = logits.new_empty(batch, height, width, dtype=torch.long)
    _resized_argmax[(cdiv(width, WIDTH), height, batch)](
        logits, labels, low_height, low_width, height, width,
        *logits.stride(), low_height / height, low_width / width,
        classes, WIDTH,
    )  # fmt: skip
    return labels


@jit
def _resized_argmax(
    logits, labels, low_height, low_width, height, width,
    stride_b, stride_k, stride_y, stride_x, ratio_y, ratio_x,
    classes, WIDTH: tl.constexpr,
):  # fmt: skip
    image, y = tl.program_id(2), tl.program_id(1)
    x = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    inside = x < width
    # positions as PyTorch computes them (align_corners=False)
    from_y = tl.maximum((y.to(tl.float32) + 0.5) * ratio_y - 0.5, 0.0)
    from_x = tl.maximum((x.to(tl.float32) + 0.5) * ratio_x - 0.5, 0.0)
    top = tl.minimum(from_y.to(tl.int32), low_height - 1)
    left = tl.minimum(from_x.to(tl.int32), low_width - 1)
    down, across = from_y - top, from_x - left
    bottom, right = tl.minimum(top + 1, low_height - 1), tl.minimum(left + 1, low_width - 1)
    corner = logits + image.to(tl.int64) * stride_b
    best = tl.full((WIDTH,), -float('inf'), tl.float32)
    label = tl.zeros((WIDTH,), tl.int32)
    for k in range(classes):
        above, below = corner + top.to(tl.int64) * stride_y, corner + bottom.to(tl.int64) * stride_y
        a = tl.load(above + left * stride_x, inside, 0.0).to(tl.float32)
        b = tl.load(above + right * stride_x, inside, 0.0).to(tl.float32)
        c = tl.load(below + left * stride_x, inside, 0.0).to(tl.float32)
        d = tl.load(below + right * stride_x, inside, 0.0).to(tl.float32)
        upper, lower = a * (1 - across) + b * across, c * (1 - across) + d * across
        value = upper * (1 - down) + lower * down
        # NaN is the largest, as for PyTorch, and the first one stays
        larger = (value > best) | ((value != value) & (best == best))
        label = tl.where(larger, k, label)
        best = tl.where(larger, value, best)
        corner += stride_k
    offset = (image.to(tl.int64) * height + y) * width
    tl.store(labels + offset + x, label.to(tl.int64), inside)
