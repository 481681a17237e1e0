"""Holds the all-MLP heads of SegFormer: mmseg's, and the linear one of other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import SegformerHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample, build_pixel_sampler
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack

from ..arguments import (
    CONFIG,
    CONFIGS,
    FLAG,
    INIT_CFG,
    INTERPOLATION,
    NONE,
    NUMBER,
    SHARE,
    Kind,
    blaming,
    checked,
    integer,
    integers,
)
from ..mit.cpu import accept_in_rows
from ..mit.fusion import FusionHead, check_image_norm, fuse_pyramid, pair_levels, select_levels
from ..mit.plain import is_untouched
from .loss import percent, strip_losses, takes_strips

DECODE_HEAD: dict[str, Kind] = dict(
    in_channels=integers(1),
    channels=integer(1),
    num_classes=integer(1),
    out_channels=integer(1) | NONE,
    threshold=NUMBER | NONE,
    dropout_ratio=SHARE,
    conv_cfg=CONFIG | NONE,
    norm_cfg=CONFIG | NONE,
    act_cfg=CONFIG | NONE,
    in_index=integers() | NONE,
    loss_decode=CONFIGS,
    ignore_index=integer() | NONE,
    sampler=CONFIG | NONE,
    align_corners=FLAG | NONE,
    init_cfg=INIT_CFG,
    interpolate_mode=INTERPOLATION,
    in_rows=FLAG | NONE,
)
"""Maps the arguments of mmseg's ``BaseDecodeHead`` and our own to what they may be."""

_BATCH_NORM = {'type': 'BN', 'requires_grad': True}


def _blaming(head: object, settings: dict[str, Any]) -> AbstractContextManager[None]:
    """Names which of these arguments of a decode head cannot be built."""
    width = settings.get('channels', 1)
    builders = dict(
        norm_cfg=lambda cfg: ConvModule(1, width, 1, norm_cfg=cfg),
        act_cfg=lambda cfg: ConvModule(1, width, 1, act_cfg=cfg),
        loss_decode=lambda cfgs: [
            MODELS.build(cfg) for cfg in (cfgs if isinstance(cfgs, list | tuple) else [cfgs])
        ],
        sampler=lambda cfg: build_pixel_sampler(cfg, context=head),
    )
    return blaming(head, {name: (settings.get(name), b) for name, b in builders.items()})


def _fuse(head: Any, inputs: Sequence[Tensor]) -> Tensor:
    drop = head.dropout
    idle = drop is None or (not drop.training and is_untouched(drop))
    return fuse_pyramid(
        select_levels(inputs, head.in_channels, head.in_index, 'decode_head'),
        head.convs,
        head.fusion_conv,
        head.conv_seg if idle else head.cls_seg,
        head.interpolate_mode,
        head.align_corners,
    )


class _AllMLPHead(FusionHead):
    """Holds what all-MLP heads share: goes before mmseg's class."""

    loss_decode: Any
    sampler: Any
    align_corners: bool
    ignore_index: int
    _stack_batch_gt: Any

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Computes logits (B, num_classes, H_0, W_0) from features (B, C_i, H_i, W_i)."""
        return _fuse(self, inputs)

    def loss_by_feat(
        self, seg_logits: Tensor, batch_data_samples: list[SegDataSample]
    ) -> dict[str, Tensor]:
        """Computes mmseg's losses and accuracy from logits (B, num_classes, H_0, W_0).

        The accuracy, which is only reported, compares the largest logit; mmseg sorts the logits of
        every pixel for it, which takes a tenth of a training step on a CPU. Where the loss is a
        plain cross entropy, both come from ``segmentation.loss``.
        """
        labels = self._stack_batch_gt(batch_data_samples)
        modules: Any = self.loss_decode
        if not isinstance(modules, nn.ModuleList):
            modules = [modules]
        plain = self.sampler is None and not self.align_corners and len(modules) == 1
        traced = torch.compiler.is_compiling() or peek_interpreter_stack() is not None
        if plain and takes_strips(modules[0]) and not traced:
            loss, accuracy = strip_losses(
                modules[0], seg_logits, labels.squeeze(1), self.ignore_index
            )
            return {str(modules[0].loss_name): loss, 'acc_seg': accuracy}
        logits = resize(
            seg_logits, labels.shape[2:], mode='bilinear', align_corners=self.align_corners
        )
        weight = None if self.sampler is None else self.sampler.sample(logits, labels)
        labels = labels.squeeze(1)
        losses: dict[str, Tensor] = {}
        for module in modules:
            loss = module(logits, labels, weight=weight, ignore_index=self.ignore_index)
            name = str(module.loss_name)
            losses[name] = losses[name] + loss if name in losses else loss
        losses['acc_seg'] = _accuracy(logits, labels, self.ignore_index)
        return losses


@MODELS.register_module(force=True)
class SegformerHeadPlusPlus(_AllMLPHead, SegformerHead):
    """Is mmseg's ``SegformerHead``: the same arguments, weights and numbers, without its concat.

    Every level is fused at its own resolution, see ``segformer_plusplus.mit.fusion``.

    Args:
        in_channels: channels of the stages that are fused.
        in_index: which of the backbone's outputs these are; by default the first ones.
        in_rows: the old way to set ``segformer_plusplus.mit.cpu.chunked``.
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
        in_rows: bool | None = None,
        **kwargs: Any,
    ) -> None:
        accept_in_rows(in_rows)
        channels, index = pair_levels(in_channels, in_index, 'decode_head')
        with _blaming(self, kwargs):
            super().__init__(in_channels=channels, in_index=index, **kwargs)
        if self.norm_cfg is not None:
            check_image_norm(self.fusion_conv.norm, self.norm_cfg)


@torch.no_grad()
def _accuracy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    counted = labels != ignore_index
    return percent(((logits.argmax(dim=1) == labels) & counted).sum(), counted.sum())


@MODELS.register_module(force=True)
class SegformerLinearHead(_AllMLPHead, BaseDecodeHead):
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
        in_rows: the old way to set ``segformer_plusplus.mit.cpu.chunked``.
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
        in_rows: bool | None = None,
        **kwargs: Any,
    ) -> None:
        accept_in_rows(in_rows)
        widths, index = pair_levels(in_channels, in_index, 'decode_head')
        settings: dict[str, Any] = dict(
            channels=channels, norm_cfg=norm_cfg, act_cfg=act_cfg or {'type': 'ReLU'}, **kwargs
        )
        with _blaming(self, settings):
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
