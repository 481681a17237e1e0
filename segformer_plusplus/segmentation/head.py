"""The all-MLP segmentation head of SegFormer."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.models.decode_heads import SegformerHead
from mmseg.registry import MODELS
from torch import Tensor

from ..layers import fuse_pyramid


@MODELS.register_module()
class SegformerHeadPlusPlus(SegformerHead):
    """mmseg's ``SegformerHead`` with the same arguments, weights and numbers, without its concat.

    Every level is fused at its own resolution, see :func:`~segformer_plusplus.layers.fuse_pyramid`.
    """

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features (B, C_i, H_i, W_i) of the stages -> logits (B, num_classes, H_0, W_0)."""
        features = self._transform_inputs(inputs)
        fused = fuse_pyramid(
            features, self.convs, self.fusion_conv, self.interpolate_mode, self.align_corners
        )
        return self.cls_seg(fused)
