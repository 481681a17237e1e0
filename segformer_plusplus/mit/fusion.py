"""Fuses a feature pyramid by SegFormer's all-MLP decoder, for every head.

For inference norms are folded into weights, and the fusion is chunked: its rows fit into the cache,
and no level ever exists at full resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import SegformerPlusPlusError
from ..kernels.fusion import CLASSES, LEVELS, fused_logits
from ..kernels.runtime import runs_on
from ..token_merging.base import image_to_tokens
from . import cpu
from .folding import Projection, compose, fold_pyramid, forget
from .plain import has_bare_weights, is_plain, is_untouched

# a product, its bias and ReLU in one launch, as in PyTorch's own Transformer layers
_linear_relu = getattr(torch, '_addmm_activation', None)

ROWS = 16
"""Is the number of rows in a chunk of the result."""


class FusionHead:
    """Goes before the base of a head that has a ``fusion_conv``.

    ``train`` and ``eval`` let weights be folded anew: mmengine swaps those of an average in through
    ``.data``, which no version counts.
    """

    fusion_conv: ConvModule

    def train(self, mode: bool = True) -> Any:
        """Sets the mode, see ``torch.nn.Module.train``."""
        forget(self.fusion_conv)
        return super().train(mode)  # type: ignore[misc]


def fuse_pyramid(
    features: Sequence[Tensor],
    convs: nn.ModuleList,
    fusion_conv: ConvModule,
    project: Callable[[Tensor], Tensor],
    mode: str = 'bilinear',
    align_corners: bool = False,
) -> Tensor:
    """Computes ``project(fusion_conv(concat(resize(conv_i(x_i)))))`` without the concat.

    In inference it is chunked with folded norms where the modules allow it; equal to rounding.

    A 1x1 convolution commutes with the resize, and a convolution of a concatenation is the sum
    of the convolutions of its parts. So every level is multiplied by its slice of the fusion's
    weight at its own low resolution, and only the products are resized and added. A level that is
    a convolution and nothing else is one with its slice. Adapters, hooks and the like are called.

    Args:
        features: one (B, C_i, H_i, W_i) per level; the first has the resolution of the result.
        convs: one module per level, (B, C_i, H_i, W_i) -> (B, C, H_i, W_i).
        fusion_conv: 1x1 convolution of len(features) * C channels, with its norm and activation.
        project: the head's last layer, (B, C, H, W) -> (B, C', H, W).
        mode: of ``torch.nn.functional.interpolate``.
        align_corners: likewise.

    Returns:
        (B, C', H_0, W_0).
    """
    levels = list(convs)
    if (
        cpu.is_chunked()
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled(features[0].device.type)
        and (mode, bool(align_corners)) == ('bilinear', False)
        and all(map(_is_foldable, (*levels, fusion_conv)))
        and _is_pointwise(project)
    ):
        return fuse_chunked(features, levels, fusion_conv, project)
    forget(fusion_conv)
    size, conv = features[0].shape[2:], fusion_conv.conv
    corners = align_corners if mode in ('bilinear', 'bicubic') else None

    def resize(level: Tensor) -> Tensor:
        if level.shape[2:] == size:
            return level
        return F.interpolate(level, size=size, mode=mode, align_corners=corners)

    if not (_is_bare(fusion_conv) and _is_pointwise(conv)):
        parts = [resize(each(x)) for each, x in zip(levels, features, strict=True)]
        return project(fusion_conv(torch.cat(parts, dim=1)))
    fused: Any = 0 if conv.bias is None else conv.bias.view(1, -1, 1, 1)
    weights = conv.weight.chunk(len(features), dim=1)
    for feature, level_conv, weight in zip(features, levels, weights, strict=True):
        fused = fused + resize(_multiply(feature, level_conv, weight))
    if fusion_conv.with_norm:
        fused = fusion_conv.norm(fused)
    return project(fusion_conv.activate(fused) if fusion_conv.with_activation else fused)


def _multiply(feature: Tensor, level_conv: Any, weight: Tensor) -> Tensor:
    """Computes ``conv(level_conv(feature))``, as one convolution where the level is just one."""
    if not _is_linear(level_conv):
        return F.conv2d(level_conv(feature), weight)
    conv = level_conv.conv
    both, bias = compose((conv.weight.flatten(1), conv.bias), weight.flatten(1))
    return F.conv2d(feature, both[:, :, None, None], bias)


def fuse_chunked(
    features: Sequence[Tensor], convs: Sequence[ConvModule], fusion_conv: ConvModule, project: Any
) -> Tensor:
    """Computes what ``fuse_pyramid`` does with bilinear resizes and norms that are folded.

    On a CPU it makes a few rows of the result at a time, on a GPU every pixel in one kernel.

    Args:
        features: one (B, C_i, H_i, W_i) per level; the first has the resolution of the result.
        convs: 1x1, one per level, (B, C_i, ...) -> (B, C, ...).
        fusion_conv: 1x1, of len(features) * C channels.
        project: 1x1.

    Returns:
        (B, C', H_0, W_0) in channels-last layout.
    """
    folded, parts, bias = fold_pyramid(convs, fusion_conv)
    levels = [_Level(*each) for each in zip(features, convs, folded, parts, strict=True)]
    if _runs_fused(features, fusion_conv, project):
        products = [level.fuse_at_once() for level in levels]
        last = project.weight.flatten(1), project.bias
        return fused_logits(products, bias, *last, fusion_conv.with_activation).permute(0, 3, 1, 2)
    first, *others = levels
    batch, _, height, width = features[0].shape
    result = features[0].new_empty(batch, height, width, project.out_channels)
    rows = ROWS if cpu.works_chunked(features[0]) else height
    for top in range(0, height, rows):
        part = slice(top, min(top + rows, height))
        fused = first.fuse(part)
        if bias is not None:
            fused += bias
        for level in others:
            fused += level.resized_rows(part, (height, width))
        fused = fusion_conv.activate(fused) if fusion_conv.with_activation else fused
        result[:, part] = cpu.linear(fused, project.weight.flatten(1), project.bias)
    return result.permute(0, 3, 1, 2)


def _runs_fused(features: Sequence[Tensor], fusion_conv: ConvModule, project: Any) -> bool:
    """Tells whether the kernel does what follows the products."""
    return (
        runs_on(*features, project.weight)
        and len(features) <= LEVELS
        and project.out_channels <= CLASSES
        and (not fusion_conv.with_activation or type(fusion_conv.activate) is nn.ReLU)
    )


class _Level:
    """Makes rows of what one level of the pyramid adds to the sum.

    Args:
        feature: (B, C_i, H_i, W_i).
        conv: 1x1, to C channels.
        folded: weight and bias of the convolution, with all that is linear after it.
        part: (C, C), the part of the fusion's weight that acts on this level after its activation,
            or None.
    """

    def __init__(
        self, feature: Tensor, conv: ConvModule, folded: Projection, part: Tensor | None
    ) -> None:
        self.grid = image_to_tokens(feature).unflatten(1, feature.shape[2:])
        self.conv, self.folded, self.part = conv, folded, part

    def fuse(self, rows: slice) -> Tensor:
        """Computes rows of the product, (B, len(rows), W_i, C), in a tensor of its own."""
        level = cpu.linear(self.grid[:, rows], *self.folded)
        return level if self.part is None else cpu.linear(self.conv.activate(level), self.part)

    def fuse_at_once(self) -> Tensor:
        """Computes the product, (B, H_i, W_i, C), in as few launches as there are."""
        weight, bias = self.folded
        if (
            self.part is None
            or bias is None
            or type(self.conv.activate) is not nn.ReLU
            or _linear_relu is None
        ):
            return self.fuse(slice(None))
        level = _linear_relu(bias, self.grid.flatten(0, 2), weight.t())
        return F.linear(level, self.part).unflatten(0, self.grid.shape[:3])

    def resized_rows(self, rows: slice, size: tuple[int, int]) -> Tensor:
        """Computes rows (B, len(rows), W, C) of the product's bilinear resize to (H, W)."""
        low = self.grid.shape[1]
        # first between rows, which are few and short here; in float64, as Python computes positions
        target = torch.arange(rows.start, rows.stop, dtype=torch.float64, device=self.grid.device)
        source = ((target + 0.5) * (low / size[0]) - 0.5).clamp(min=0)
        above = source.long()
        below = (above + 1).clamp(max=low - 1)
        share = (source - above).to(self.grid.dtype)[:, None, None]
        start, stop = _source_rows(rows, low / size[0], low)
        level = self.fuse(slice(start, stop))
        lines = torch.lerp(level[:, above - start], level[:, below - start], share)
        wide = F.interpolate(
            lines.permute(0, 3, 1, 2), (len(target), size[1]), mode='bilinear', align_corners=False
        )
        return wide.permute(0, 2, 3, 1)


def _source_rows(rows: slice, scale: float, low: int) -> tuple[int, int]:
    """Returns which of ``low`` rows a bilinear resize reads for ``rows``: first, last + 1."""
    first, last = (max(0.0, (row + 0.5) * scale - 0.5) for row in (rows.start, rows.stop - 1))
    return int(first), min(low, int(last) + 2)


def _is_bare(module: nn.Module) -> bool:
    """Tells whether this is a ``ConvModule`` of which no part wants to be called."""
    # by what is called, since in a graph that is traced every module has a class of its own
    return type(module).forward is ConvModule.forward and is_untouched(*module.modules())


def _is_linear(module: nn.Module) -> bool:
    """Tells whether this is a 1x1 convolution and nothing more."""
    if not _is_bare(module) or module.with_norm or module.with_activation:
        return False
    return _is_pointwise(module.conv)


def _is_pointwise(conv: Any) -> bool:
    return (
        isinstance(conv, nn.Conv2d)
        and is_plain(conv)  # what another class does with its weight is not known here
        and (conv.kernel_size, conv.stride, conv.padding) == ((1, 1), (1, 1), (0, 0))
        and conv.groups == 1
    )


def _is_foldable(module: nn.Module) -> bool:
    """Tells whether this is a 1x1 convolution, with at most a fixed batch norm before the end."""
    if not _is_bare(module) or module.order != ('conv', 'norm', 'act'):
        return False
    norm = module.norm
    return _is_pointwise(module.conv) and (norm is None or _is_fixed(norm))


def _is_fixed(norm: Any) -> bool:
    return (
        type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
        and has_bare_weights(norm)
        and not norm.training
        and norm.running_var is not None
    )


def pair_levels(
    in_channels: Sequence[int], in_index: Sequence[int] | None, head: str
) -> tuple[list[int], list[int]]:
    """Returns channels and index of every level that a head takes; by default the first outputs.

    Args:
        in_channels: channels of each level.
        in_index: which of the backbone's outputs they are, or None.
        head: the key of the head in a model, for the message.

    Raises:
        SegformerPlusPlusError: there are not as many of one as of the other.
    """
    channels = list(in_channels)
    index = list(range(len(channels)) if in_index is None else in_index)
    if len(channels) != len(index):
        raise SegformerPlusPlusError(
            f'{head}.in_channels {channels} and {head}.in_index {index} do not go together; '
            'give one index for each number of channels'
        )
    return channels, index


def select_levels(
    features: Sequence[Tensor], in_channels: Sequence[int], in_index: Sequence[int], head: str
) -> list[Tensor]:
    """Selects the outputs of the backbone (B, C_i, H_i, W_i) that a head takes.

    Args:
        features: all outputs of the backbone.
        in_channels: the C_i that the head was built for.
        in_index: which of the outputs these are.
        head: the key of the head in a model, for the message.

    Raises:
        SegformerPlusPlusError: the backbone has fewer outputs, or of other channels.
    """
    if not all(-len(features) <= index < len(features) for index in in_index):
        raise SegformerPlusPlusError(
            f'{head} uses outputs {list(in_index)} of the backbone (in_index), which has only '
            f"{len(features)}; change in_channels and in_index, or the backbone's out_indices"
        )
    levels = [features[index] for index in in_index]
    channels = [level.shape[1] for level in levels]
    if channels != list(in_channels):
        raise SegformerPlusPlusError(
            f'{head}.in_channels is {list(in_channels)}, but the backbone gives {channels} '
            f'(outputs {list(in_index)}); set in_channels to that, or change the backbone'
        )
    return levels


def check_image_norm(norm: nn.Module, norm_cfg: dict[str, Any]) -> None:
    """Raises for a norm that wants channels in the last dimension."""
    # subclasses of it may well be for images
    if type(norm) is nn.LayerNorm:
        raise SegformerPlusPlusError(
            f'norm_cfg={norm_cfg} is a norm of tokens; a head needs one of images (B, C, H, W), '
            "such as dict(type='BN')"
        )
