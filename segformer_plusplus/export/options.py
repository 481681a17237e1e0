"""Checks what is exported and how, before anything is traced or written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from ..errors import SegformerPlusPlusError, TokenMergingError
from ..mit.backbone import MixVisionTransformerPlusPlus
from ..token_merging import BipartiteSoftMatching1d, BipartiteSoftMatching2d, NeighborMerging2d
from ..token_merging.bipartite import exact_share
from .formats import find_format

OPSETS = range(18, 24)
"""ONNX opsets that PyTorch's exporter writes."""

DEFAULT_OPSET = 18
"""The lowest one: every runtime of the last years knows it."""

OLDEST_TORCH = '2.9'
"""From which on PyTorch's exporter to ONNX, on which OpenVINO's is built, fits its onnxscript."""

OUTPUTS = ('logits', 'labels', 'heatmaps')


@dataclass(frozen=True)
class ExportOptions:
    """Says how a model becomes a graph.

    Attributes:
        format: 'onnx', 'torch-export' or 'openvino'.
        shape: height and width of the images; of dynamic ones, those that are checked first.
        batch_size: images at a time.
        dynamic_batch: the graph takes any number of images.
        dynamic_size: the graph takes every height and width that ``size_step`` divides, from
            ``smallest_side`` on.
        output: 'logits' (a quarter of the images' size) or 'labels' (their size) of a segmentor,
            'heatmaps' of a pose estimator.
        with_preprocessing: the graph takes (B, H, W, C) uint8, three channels in RGB order, and
            normalises them itself, instead of normalised (B, C, H, W) float32.
        opset: of ONNX, for the formats that have one; None for ``DEFAULT_OPSET``.
        precision: 'fp32', 'bf16', 'fp16' or 'int8', what the graph computes in; what goes in and
            comes out stays as it is.

    Raises:
        SegformerPlusPlusError: a value that cannot be, or that its format does not have.
    """

    format: str
    shape: tuple[int, int]
    batch_size: int = 1
    dynamic_batch: bool = False
    dynamic_size: bool = False
    output: str = 'logits'
    with_preprocessing: bool = False
    opset: int | None = None
    precision: str = 'fp32'

    def __post_init__(self) -> None:
        height, width = self.shape
        numbers = dict(height=height, width=width, batch_size=self.batch_size)
        for name, value in numbers.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise SegformerPlusPlusError(f'{name}={value!r} is no whole number above 0')
        if self.output not in OUTPUTS:
            raise SegformerPlusPlusError(
                f'output={self.output!r} is unknown, use one of {list(OUTPUTS)}'
            )
        if not find_format(self.format).has_opset and self.opset is not None:
            raise SegformerPlusPlusError(
                f'opset={self.opset}: the format {self.format!r} is not made of ONNX operators; '
                'leave the opset out'
            )
        if self.opset is not None and self.opset not in OPSETS:
            raise SegformerPlusPlusError(
                f'opset={self.opset} cannot be written, use one of {OPSETS[0]} to {OPSETS[-1]}'
            )

        find_format(self.format).check_precision(self.precision)

    @property
    def written_opset(self) -> int | None:
        """Returns the opset of the file, None where the format has none."""
        return (self.opset or DEFAULT_OPSET) if find_format(self.format).has_opset else None


def check_target(path: Path, format: str) -> None:
    """Raises a SegformerPlusPlusError unless a file of this name and format may be written."""
    suffix = find_format(format).suffix
    if path.suffix != suffix:
        raise SegformerPlusPlusError(
            f'files of the format {format!r} end in {suffix}, {path} does not'
        )
    if path.is_dir():
        raise SegformerPlusPlusError(f'{path} is a folder; name a file')
    if find_format(format).has_opset and torch.__version__ < f'{OLDEST_TORCH}a':
        raise SegformerPlusPlusError(
            f'PyTorch writes our models as {format} from {OLDEST_TORCH} on, this is '
            f"{torch.__version__}: pip install -U 'segformer-plusplus[export]'; or take the format "
            "'torch-export'"
        )


def check_model(model: Any, options: ExportOptions) -> None:
    """Raises a SegformerPlusPlusError unless this model can be exported with these options."""
    backbone = getattr(model, 'backbone', None)
    segments = hasattr(model, 'decode_head')
    if not isinstance(backbone, MixVisionTransformerPlusPlus) or not (
        segments or hasattr(model, 'head')
    ):
        raise SegformerPlusPlusError(
            'what is exported is a segmentor or pose estimator with the backbone '
            f'MixVisionTransformerPlusPlus; this one is a {type(model).__name__} with '
            f'{type(backbone).__name__}'
        )
    if segments != (options.output != 'heatmaps'):
        has = "'logits' and 'labels'" if segments else "'heatmaps'"
        raise SegformerPlusPlusError(
            f'output={options.output!r}: a {type(model).__name__} has {has}'
        )
    if options.output == 'labels':
        _check_labels(model)
    _check_size(model, options)
    if options.with_preprocessing and not hasattr(model.data_preprocessor, '_channel_conversion'):
        raise SegformerPlusPlusError(
            'with_preprocessing: the model has no data_preprocessor that normalises images, but '
            f'{type(model.data_preprocessor).__name__}'
        )


def default_shape(model: Any) -> tuple[int, int]:
    """Returns the height and width of the images that the model is made for, if it tells them."""
    shape = _codec_size(model)
    size = getattr(getattr(model, 'data_preprocessor', None), 'size', None)
    if shape is None and isinstance(size, Sequence) and len(size) == 2:
        shape = int(size[0]), int(size[1])
    if shape is None:
        raise SegformerPlusPlusError(
            'the model does not tell the size of its images; give one with shape (--shape HxW)'
        )
    return shape


def size_step(backbone: MixVisionTransformerPlusPlus) -> int:
    """Returns a number; heights and widths that it divides give whole grids in every stage.

    On these no spatial reduction, mean of a cell or downsampling leaves a border, so that one graph
    is right for all of them.

    Raises:
        SegformerPlusPlusError: a strategy for which no graph is right for more than one size.
    """
    return math.lcm(*(pixels * _sides(merger)[0] for pixels, merger in _mergers(backbone)))


def smallest_side(backbone: MixVisionTransformerPlusPlus) -> int:
    """Returns the smallest height and width of one graph for every size: steps, two at least.

    Raises:
        SegformerPlusPlusError: as in ``size_step``.
    """
    step = size_step(backbone)
    sides = [pixels * _sides(merger)[1] for pixels, merger in _mergers(backbone)]
    return step * max(2, -(-max(sides) // step))


def _mergers(backbone: MixVisionTransformerPlusPlus) -> Iterator[tuple[int, Any]]:
    """Yields the strategies of all stages, and how many pixels of a side their tokens stand for."""
    merging = backbone.token_merging
    pixels = 1 if merging.downsampling is None else merging.downsampling.factor
    for stride, reduction, stage in zip(
        backbone.strides, backbone.sr_ratios, merging.stages, strict=True
    ):
        pixels *= stride
        yield from ((pixels, stage.q), (pixels * reduction, stage.kv))


def _sides(merger: Any) -> tuple[int, int]:
    """Returns what divides both sides of a strategy's grid, and the least that these are."""
    if merger is None:
        return 1, 1
    if type(merger) is NeighborMerging2d:
        return math.lcm(*merger.stride), 1
    if type(merger) is BipartiteSoftMatching2d:
        return 1, _smallest_matched(merger, merger.stride)
    if type(merger) is BipartiteSoftMatching1d:
        return 1, _smallest_matched(merger, (1, 2))
    raise SegformerPlusPlusError(
        f'dynamic_size: no graph is known to be right for {merger!r} at every size; export one '
        "file for each size, or merge with NeighborMerging2d ('2x2'), BipartiteSoftMatching2d "
        "('hq', 'weighted', ...), 'downsampling' or nothing"
    )


def _smallest_matched(merger: Any, cell: tuple[int, int]) -> int:
    """Returns a side of grids on which no branch of the matching depends on the size.

    From there on two cells fit into each side, some tokens are merged, and two sources or more stay
    alone.
    """
    try:
        share = exact_share(merger.ratio)
    except TokenMergingError as error:
        raise SegformerPlusPlusError(f'dynamic_size: {merger!r}: {error}') from error
    if not share:
        return 2 * max(cell)
    # of n tokens at least n * alone sources stay, since at most n / cell are destinations
    alone = 1 - share - Fraction(1, math.prod(cell))
    if alone <= 0:
        raise SegformerPlusPlusError(
            f'dynamic_size: {merger!r} merges every source of some sizes, and not of others; lower '
            'the ratio, or export one file for each size'
        )
    return max(2 * max(cell), math.isqrt(int(max(1 / share, 1 / alone))) + 1)


def _check_labels(model: Any) -> None:
    mode = (model.test_cfg or {}).get('mode', 'whole')
    if mode != 'whole':
        raise SegformerPlusPlusError(
            f"output='labels': the model's test_cfg.mode is {mode!r}, but a graph takes the whole "
            'image; if that is what you want, set model.test_cfg.mode=whole'
        )


def _check_size(model: Any, options: ExportOptions) -> None:
    height, width = options.shape
    codec = _codec_size(model)
    if codec is not None and (options.dynamic_size or codec != options.shape):
        asked = 'dynamic_size' if options.dynamic_size else f'shape {height}x{width}'
        raise SegformerPlusPlusError(
            f"{asked} does not fit the model: its codec's input_size is {codec[0]}x{codec[1]} "
            '(height x width)'
        )
    if options.dynamic_size:
        step, least = size_step(model.backbone), smallest_side(model.backbone)
        if height % step or width % step or min(height, width) < least:
            raise SegformerPlusPlusError(
                f'dynamic_size takes multiples of {step} from {least} on, shape '
                f'{height}x{width} is none'
            )


def _codec_size(model: Any) -> tuple[int, int] | None:
    """Returns the height and width that a pose estimator's keypoints are decoded for."""
    decoder = getattr(getattr(model, 'head', None), 'decoder', None)
    size = getattr(decoder, 'input_size', None)
    return None if size is None else (int(size[1]), int(size[0]))
