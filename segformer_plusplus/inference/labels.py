"""From logits to labels as every library documents it, and what type of number holds them."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor


def resize_and_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (B, K, h, w) -> labels (B, H, W), the way that every library documents."""
    return F.interpolate(logits, size=size, mode='bilinear', align_corners=False).argmax(dim=1)


def label_dtype(classes: int) -> type[np.uint8] | type[np.uint16]:
    """The smallest that a PNG file can hold."""
    return np.uint8 if classes <= 256 else np.uint16
