"""All-MLP fusion of a feature pyramid, shared by the heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from .fusion_rows import can_fuse_in_rows, compose, fuse_in_rows, is_linear


def fuse_pyramid(
    features: Sequence[Tensor],
    convs: nn.ModuleList,
    fusion_conv: ConvModule,
    project: Callable[[Tensor], Tensor],
    mode: str = 'bilinear',
    align_corners: bool = False,
    in_rows: bool = True,
) -> Tensor:
    """``project(fusion_conv(concat(resize(conv_i(x_i)))))``, without the concat.

    A 1x1 convolution commutes with the resize, and a convolution of a concatenation is the sum
    of the convolutions of its parts. So every level is multiplied by its slice of the fusion's
    weight at its own low resolution, and only the products are resized and added. A level that is
    a convolution and nothing else is one with its slice.

    Args:
        features: one (B, C_i, H_i, W_i) per level; the first has the resolution of the result.
        convs: one module per level, (B, C_i, H_i, W_i) -> (B, C, H_i, W_i).
        fusion_conv: 1x1 convolution of len(features) * C channels, with its norm and activation.
        project: the head's last layer, (B, C, H, W) -> (B, C', H, W).
        mode: of ``torch.nn.functional.interpolate``.
        align_corners: likewise.
        in_rows: for inference, work on a few rows at a time with folded norms, where the modules
            allow it; equal to rounding.

    Returns:
        (B, C', H_0, W_0).
    """
    fixed = not torch.is_grad_enabled() and not torch.is_autocast_enabled(features[0].device.type)
    if in_rows and fixed and (mode, bool(align_corners)) == ('bilinear', False):
        levels = list(convs)
        if can_fuse_in_rows(levels, fusion_conv, project):
            return fuse_in_rows(features, levels, fusion_conv, project)
    return project(_fuse(features, convs, fusion_conv, mode, align_corners))


def _fuse(
    features: Sequence[Tensor],
    convs: nn.ModuleList,
    fusion_conv: ConvModule,
    mode: str,
    align_corners: bool,
) -> Tensor:
    size = features[0].shape[2:]
    conv = fusion_conv.conv
    weights = conv.weight.chunk(len(features), dim=1)
    fused: Any = 0 if conv.bias is None else conv.bias.view(1, -1, 1, 1)
    for feature, level_conv, weight in zip(features, convs, weights, strict=True):
        level = _multiply(feature, level_conv, weight)
        if level.shape[2:] != size:
            corners = align_corners if mode in ('bilinear', 'bicubic') else None
            level = F.interpolate(level, size=size, mode=mode, align_corners=corners)
        fused = fused + level
    if fusion_conv.with_norm:
        fused = fusion_conv.norm(fused)
    return fusion_conv.activate(fused) if fusion_conv.with_activation else fused


def _multiply(feature: Tensor, level_conv: nn.Module, weight: Tensor) -> Tensor:
    """``conv(level_conv(feature))``, as one convolution where the level is nothing but one."""
    if not is_linear(level_conv):
        return F.conv2d(level_conv(feature), weight)
    inner: Any = level_conv
    both, bias = compose((inner.conv.weight.flatten(1), inner.conv.bias), weight.flatten(1))
    return F.conv2d(feature, both[:, :, None, None], bias)
