"""Turns logits into labels, and gives labels their type of number and their colours."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor


def resize_and_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Turns logits (B, K, h, w) into labels (B, H, W), the way that every library documents."""
    return F.interpolate(logits, size=size, mode='bilinear', align_corners=False).argmax(dim=1)


def label_dtype(classes: int) -> type[np.uint8] | type[np.uint16]:
    """Returns the smallest type of labels that a PNG file can hold."""
    return np.uint8 if classes <= 256 else np.uint16


def distinct_colours(count: int) -> np.ndarray:
    """Returns the RGB colours (count, 3) uint8 of PASCAL VOC.

    The bits of a label go to red, green and blue in turn, the lowest ones first to the highest
    bits of the colours.
    """
    bits = (np.arange(count)[:, None] >> np.arange(24) & 1).reshape(count, 8, 3)
    return np.packbits(bits.astype(np.uint8), axis=1).reshape(count, 3)
