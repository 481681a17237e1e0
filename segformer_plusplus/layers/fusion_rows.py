"""The fusion of :mod:`.fusion` for inference: norms folded into weights, a few rows at a time.

What is worked on fits into the cache, and no level ever exists at full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from .tokens import image_to_tokens

ROWS = 16
"""Rows of the result that are made at a time on a CPU."""


def can_fuse_in_rows(convs: Sequence[nn.Module], fusion_conv: nn.Module, project: Any) -> bool:
    """Whether :func:`fuse_in_rows` computes what these modules do, in the mode that they are in."""
    return all(map(_is_foldable, (*convs, fusion_conv))) and _is_pointwise(project)


def fuse_in_rows(
    features: Sequence[Tensor],
    convs: Sequence[ConvModule],
    fusion_conv: ConvModule,
    project: Any,
) -> Tensor:
    """``project(fusion_conv(concat(resize(conv_i(x_i)))))`` with bilinear resizes.

    Equal to rounding. See :func:`~.fusion.fuse_pyramid` for why the fusion can run on every level
    by itself, and :func:`can_fuse_in_rows` for what the modules must be.

    Args:
        features: one (B, C_i, H_i, W_i) per level; the first has the resolution of the result.
        convs: 1x1, one per level, (B, C_i, ...) -> (B, C, ...).
        fusion_conv: 1x1, of len(features) * C channels.
        project: 1x1.

    Returns:
        (B, C', H_0, W_0) in channels-last layout.
    """
    batch, _, height, width = features[0].shape
    weight, bias = _fold(fusion_conv)
    first_part, *parts = weight.chunk(len(features), dim=1)
    deeper = [
        F.linear(_apply(conv, _fold(conv), _to_grid(feature)), part)
        for feature, conv, part in zip(features[1:], convs[1:], parts, strict=True)
    ]
    grid, folded = _to_grid(features[0]), _fold(convs[0])
    result = grid.new_empty(batch, height, width, project.out_channels)
    rows = ROWS if grid.device.type == 'cpu' else height
    for top in range(0, height, rows):
        part = slice(top, min(top + rows, height))
        fused = F.linear(_apply(convs[0], folded, grid[:, part]), first_part, bias)
        for level in deeper:
            fused += _resized_rows(level, (height, width), part)
        fused = fusion_conv.activate(fused) if fusion_conv.with_activation else fused
        result[:, part] = F.linear(fused, project.weight.flatten(1), project.bias)
    return result.permute(0, 3, 1, 2)


def _resized_rows(level: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Some rows of a bilinear resize, (B, h, w, C) -> (B, len(rows), width, C).

    First between rows, which are few and short here, then along them.
    """
    low = level.shape[1]
    target = torch.arange(rows.start, rows.stop, device=level.device)
    source = ((target + 0.5) * (low / size[0]) - 0.5).clamp(min=0)
    above = source.long()
    below = (above + 1).clamp(max=low - 1)
    share = (source - above).to(level.dtype)[:, None, None]
    lines = torch.lerp(level[:, above], level[:, below], share).permute(0, 3, 1, 2)
    wide = F.interpolate(lines, (len(target), size[1]), mode='bilinear', align_corners=False)
    return wide.permute(0, 2, 3, 1)


def _to_grid(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), contiguous; no copy if the image is channels-last."""
    return image_to_tokens(image).unflatten(1, image.shape[2:])


def _apply(module: ConvModule, folded: tuple[Tensor, Tensor | None], grid: Tensor) -> Tensor:
    """A module, with its folded weight and bias, on (B, H, W, C)."""
    result = F.linear(grid, *folded)
    return module.activate(result) if module.with_activation else result


def _is_pointwise(conv: Any) -> bool:
    return (
        type(conv) is nn.Conv2d  # what another class does with its weight is not known here
        and (conv.kernel_size, conv.stride, conv.padding) == ((1, 1), (1, 1), (0, 0))
        and conv.groups == 1
    )


def _is_foldable(module: nn.Module) -> bool:
    """A 1x1 convolution, then at most a batch norm with fixed statistics, then an activation."""
    if not isinstance(module, ConvModule) or module.order != ('conv', 'norm', 'act'):
        return False
    norm = module.norm
    fixed = isinstance(norm, nn.modules.batchnorm._BatchNorm) and (
        not norm.training and norm.running_var is not None
    )
    return _is_pointwise(module.conv) and (norm is None or fixed)


def _fold(module: ConvModule) -> tuple[Tensor, Tensor | None]:
    """Weight (C', C) and bias (C') of the convolution and its norm in one."""
    weight, bias, norm = module.conv.weight.flatten(1), module.conv.bias, module.norm
    if norm is None:
        return weight, bias
    scale = torch.rsqrt(norm.running_var + norm.eps)
    shift = -norm.running_mean if bias is None else bias - norm.running_mean
    if not norm.affine:
        return weight * scale[:, None], shift * scale
    scale = scale * norm.weight
    return weight * scale[:, None], shift * scale + norm.bias
