"""The all-MLP head as SegFormer's authors and Transformers have it: levels without norm or ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..arguments import checked
from ..layers import check_image_norm, fuse_pyramid, pair_levels, select_levels
from .decode_head import DECODE_HEAD, blaming_head

_BATCH_NORM = {'type': 'BN', 'requires_grad': True}


@MODELS.register_module()
class SegformerLinearHead(BaseDecodeHead):
    """Fuses the stages as SegFormer's original code, Transformers and SMP do.

    mmseg's ``SegformerHead`` has a norm and a ReLU after the projection of each level. Theirs is a
    linear layer with a bias and nothing more, so that the weights of one do not fit the other. This
    head takes theirs and gives the same logits. Its state dict has mmseg's names: ``convs.i.conv``
    with a bias, ``fusion_conv``, ``conv_seg``.

    Args:
        in_channels: channels of the stages that are fused.
        channels: width of the fusion (their ``embed_dim``, ``decoder_hidden_size``,
            ``decoder_segmentation_channels``).
        in_index: which of the backbone's outputs these are; by default the first ones.
        norm_cfg: norm of the fusion; theirs is a batch norm with torch's eps of 1e-5.
        act_cfg: activation of the fusion.
        interpolate_mode: ``mode`` of ``F.interpolate``.
        in_rows: for inference, a few rows at a time with folded norms; equal to rounding.
        kwargs: those of mmseg's ``BaseDecodeHead``.

    Raises:
        SegformerPlusPlusError: an argument is of the wrong kind, cannot be built, or does not go
            with another one. In the first step: the backbone has other stages.
    """

    @checked(**DECODE_HEAD)
    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        in_index: Sequence[int] | None = None,
        norm_cfg: dict[str, Any] | None = _BATCH_NORM,
        act_cfg: dict[str, Any] | None = None,
        interpolate_mode: str = 'bilinear',
        in_rows: bool = True,
        **kwargs: Any,
    ) -> None:
        widths, index = pair_levels(in_channels, in_index, 'decode_head')
        settings: dict[str, Any] = dict(
            channels=channels, norm_cfg=norm_cfg, act_cfg=act_cfg or {'type': 'ReLU'}, **kwargs
        )
        with blaming_head(self, settings):
            super().__init__(
                in_channels=widths, in_index=index, input_transform='multiple_select', **settings
            )
            self.convs = nn.ModuleList(
                ConvModule(width, channels, 1, bias=True, norm_cfg=None, act_cfg=None)
                for width in widths
            )
            self.fusion_conv = ConvModule(
                channels * len(widths), channels, 1, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg
            )
        if self.norm_cfg is not None:
            check_image_norm(self.fusion_conv.norm, self.norm_cfg)
        self.interpolate_mode = interpolate_mode
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
