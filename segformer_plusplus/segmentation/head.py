"""The all-MLP segmentation head of SegFormer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.decode_heads import SegformerHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ..arguments import checked
from ..layers import check_image_norm, fuse_pyramid, pair_levels, select_levels
from .decode_head import DECODE_HEAD, blaming_head


@MODELS.register_module()
class SegformerHeadPlusPlus(SegformerHead):
    """mmseg's ``SegformerHead`` with the same arguments, weights and numbers, without its concat.

    Every level is fused at its own resolution, see :func:`~segformer_plusplus.layers.fuse_pyramid`.

    Args:
        in_channels: channels of the stages that are fused.
        in_index: which of the backbone's outputs these are; by default the first ones.
        in_rows: for inference, a few rows at a time with folded norms; equal to rounding.
        kwargs: the others of mmseg's head.

    Raises:
        SegformerPlusPlusError: an argument is of the wrong kind, cannot be built, or does not go
            with another one. In the first step: the backbone has other stages.
    """

    @checked(**DECODE_HEAD)
    def __init__(
        self,
        in_channels: Sequence[int],
        in_index: Sequence[int] | None = None,
        in_rows: bool = True,
        **kwargs: Any,
    ) -> None:
        channels, index = pair_levels(in_channels, in_index, 'decode_head')
        with blaming_head(self, kwargs):
            super().__init__(in_channels=channels, in_index=index, **kwargs)
        if self.norm_cfg is not None:
            check_image_norm(self.fusion_conv.norm, self.norm_cfg)
        self.in_rows = in_rows

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features (B, C_i, H_i, W_i) of the stages -> logits (B, num_classes, H_0, W_0)."""
        return fuse_pyramid(
            select_levels(inputs, self.in_channels, self.in_index, 'decode_head'),
            self.convs,
            self.fusion_conv,
            self.cls_seg if self.training else self.conv_seg,
            self.interpolate_mode,
            self.align_corners,
            self.in_rows,
        )

    def loss_by_feat(
        self, seg_logits: Tensor, batch_data_samples: list[SegDataSample]
    ) -> dict[str, Tensor]:
        """mmseg's losses and accuracy from logits (B, num_classes, H_0, W_0).

        The accuracy, which is only reported, compares the largest logit; mmseg's own sorts the
        logits of every pixel for it, on a CPU a tenth of a training step.
        """
        labels = self._stack_batch_gt(batch_data_samples)
        logits = resize(
            seg_logits, labels.shape[2:], mode='bilinear', align_corners=self.align_corners
        )
        weight = None if self.sampler is None else self.sampler.sample(logits, labels)
        labels = labels.squeeze(1)
        losses: dict[str, Tensor] = {}
        modules = self.loss_decode
        for module in modules if isinstance(modules, nn.ModuleList) else [modules]:
            loss = module(logits, labels, weight=weight, ignore_index=self.ignore_index)
            name = str(module.loss_name)
            losses[name] = losses[name] + loss if name in losses else loss
        losses['acc_seg'] = _accuracy(logits, labels, self.ignore_index)
        return losses


@torch.no_grad()
def _accuracy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Percent of the labelled pixels whose largest logit is their label's, (1,); 100 of none."""
    counted = labels != ignore_index
    correct = (logits.argmax(dim=1) == labels) & counted
    epsilon = torch.finfo(torch.float32).eps
    return 100 * (correct.sum().reshape(1) + epsilon) / (counted.sum() + epsilon)
