"""What this package's decode heads have in common: their arguments, and how they are built."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from mmcv.cnn import ConvModule
from mmseg.registry import MODELS
from mmseg.structures import build_pixel_sampler

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
    integer,
    integers,
)

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
    in_rows=FLAG,
)
"""Kinds of the arguments of mmseg's ``BaseDecodeHead`` and of our own."""


def blaming_head(head: object, settings: dict[str, Any]) -> AbstractContextManager[None]:
    """:func:`~segformer_plusplus.arguments.blaming` of a decode head with these arguments."""
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
