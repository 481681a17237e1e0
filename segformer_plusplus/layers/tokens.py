"""Between tokens (B, N, C) and images (B, C, H, W): views of one channels-last memory layout."""

from __future__ import annotations

import torch
from torch import Tensor

from ..token_merging.base import Grid


def tokens_to_image(tokens: Tensor, grid: Grid) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W) in channels-last layout, without a copy."""
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)


def image_to_tokens(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C), contiguous; no copy if the image is channels-last."""
    image = image.contiguous(memory_format=torch.channels_last)
    return image.permute(0, 2, 3, 1).flatten(1, 2)
