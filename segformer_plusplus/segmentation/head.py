"""The all-MLP segmentation head of SegFormer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads import SegformerHead
from mmseg.registry import MODELS
from torch import Tensor

from ..layers import fuse_pyramid


@MODELS.register_module()
class SegformerHeadPlusPlus(SegformerHead):
    """mmseg's ``SegformerHead`` with the same arguments, weights and numbers, without its concat.

    Every level is fused at its own resolution, see :func:`~segformer_plusplus.layers.fuse_pyramid`.

    Args:
        in_rows: for inference, a few rows at a time with folded norms; equal to rounding.
        kwargs: those of mmseg's head.
    """

    def __init__(self, in_rows: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.in_rows = in_rows

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features (B, C_i, H_i, W_i) of the stages -> logits (B, num_classes, H_0, W_0)."""
        return fuse_pyramid(
            self._transform_inputs(inputs),
            self.convs,
            self.fusion_conv,
            self.cls_seg if self.training else self.conv_seg,
            self.interpolate_mode,
            self.align_corners,
            self.in_rows,
        )
