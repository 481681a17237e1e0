"""Overlapping patch embedding: the strided convolution at the start of a stage."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ..token_merging.base import Grid
from .tokens import image_to_tokens


class OverlapPatchEmbed(nn.Module):
    """Image to normalised tokens (SegFormer, section 3.1).

    Args:
        in_channels: channels of the image or of the stage before.
        embed_dims: C.
        patch_size: kernel of the convolution; padded by half of it.
        stride: by which the grid shrinks.
        norm_cfg: of the norm after it.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: int,
        stride: int,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        self.projection = nn.Conv2d(
            in_channels, embed_dims, kernel_size=patch_size, stride=stride, padding=patch_size // 2
        )
        self.norm = build_norm_layer(norm_cfg, embed_dims)[1]

    def forward(self, image: Tensor) -> tuple[Tensor, Grid]:
        """(B, in_channels, H, W) -> (B, N, C) and the grid of the N tokens."""
        image = self.projection(image.contiguous(memory_format=torch.channels_last))
        return self.norm(image_to_tokens(image)), (image.shape[2], image.shape[3])
