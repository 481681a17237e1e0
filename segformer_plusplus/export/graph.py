"""Builds the module that is exported, from images to one output, and traces it."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..errors import SegformerPlusPlusError
from ..mit.cpu import chunked
from ..segmentation.labels import labels_of
from ..token_merging import TokenMerger
from .options import ExportOptions, size_step, smallest_side
from .precision import HALF

INPUT = 'images'
"""The name of the graph's one input."""

_DYNAMIC_BATCH = 2  # a trace with one image would hold for one image only


def predict(model: Any, images: Tensor, output: str) -> Tensor:
    """Runs a segmentor or pose estimator on normalised images (B, C, H, W).

    ``output`` is 'logits', 'labels' (of the size of the images) or 'heatmaps'; what is no label is
    float32 in any precision of the model.
    """
    if output == 'heatmaps':
        return model.head(model.extract_feat(images)).float()
    head = model.decode_head
    logits = head(model.extract_feat(images)).float()
    if output == 'logits':
        return logits
    return labels_of(logits, (images.shape[2], images.shape[3]), head)


def normalise(model: Any, images: Tensor) -> Tensor:
    """Runs (B, H, W, C) uint8, three channels in RGB order, through a model's data_preprocessor.

    Returns:
        (B, C, H, W) float32.
    """
    as_read = images.flip(-1) if images.shape[-1] == 3 else images  # BGR, by mmcv
    # mmpose writes into samples what it padded
    samples = None if hasattr(model, 'decode_head') else [BaseDataElement() for _ in images]
    content = {'inputs': list(as_read.permute(0, 3, 1, 2).contiguous()), 'data_samples': samples}
    return torch.stack(list(model.data_preprocessor(content, training=False)['inputs']))


def as_raw(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resizes an image (C, H', W') uint8, as it was read, to a shape.

    Returns:
        (1, H, W, C) uint8, three channels in RGB order.
    """
    if image.shape[1:] != shape:
        resized = F.interpolate(image[None].float(), shape, mode='bilinear', antialias=True)[0]
        image = resized.round().clamp(0, 255).to(image.dtype)
    in_rgb = image.flip(0) if len(image) == 3 else image
    return in_rgb.permute(1, 2, 0)[None].contiguous()


class ExportGraph(nn.Module):
    """Maps images to one output by a copy of a model, in plain operators without loops over rows.

    The options say what comes in and out. Of half precision, PyTorch's own graphs are cast here;
    those of other formats are rounded by the tools of their runtimes.
    """

    def __init__(self, model: Any, options: ExportOptions) -> None:
        super().__init__()
        self.model: Any = copy.deepcopy(model)
        self.options = options
        cast = options.format == 'torch-export' and options.precision in HALF
        self.dtype = HALF[options.precision] if cast else torch.float32
        for name, part in self.model.named_children():
            if name != 'data_preprocessor':  # which normalises in float32
                part.to(self.dtype)

    def forward(self, images: Tensor) -> Tensor:
        if self.options.with_preprocessing:
            images = self._preprocess(images)
        if self.options.dynamic_size:
            images = self._in_steps(images)
        return predict(self.model, images.to(self.dtype), self.options.output)

    def _preprocess(self, images: Tensor) -> Tensor:
        """Turns (B, H, W, C) uint8, three in RGB order, into (B, C, H, W) as the model does."""
        settings = self.model.data_preprocessor
        # it turns the BGR order that mmcv reads into RGB, or else the model takes BGR
        turns = not settings._channel_conversion and images.shape[-1] == 3
        channels = images.flip(-1) if turns else images
        result = channels.permute(0, 3, 1, 2).to(torch.float32)
        if settings._enable_normalize:
            result = (result - settings.mean) / settings.std
        return result

    def _in_steps(self, images: Tensor) -> Tensor:
        """Says of (B, C, H, W) that its sides are numbers of steps, and changes nothing.

        torch.export loads a file with an example of each size. Of a side it has that of the product
        of step and number alone; here the number is a size of its own.
        """
        step = size_step(self.model.backbone)
        height, width = (side // step for side in images.shape[2:])
        return images.reshape(*images.shape[:2], height * step, width * step)

    def example(self, batch: int, size: tuple[int, int]) -> Tensor:
        """Returns that many black images of this size."""
        if self.options.with_preprocessing:
            return torch.zeros(batch, *size, self.model.backbone.in_channels, dtype=torch.uint8)
        return torch.zeros(batch, self.model.backbone.in_channels, *size)


def trace(graph: ExportGraph) -> ExportedProgram:
    """Traces the graph with ``torch.export``.

    Raises:
        SegformerPlusPlusError: it cannot be traced; names the strategy whose plan it is.
    """
    options = graph.options
    batch, size = options.batch_size, options.shape
    axes: dict[int, Any] = {}
    if options.dynamic_batch:
        batch, axes[0] = _DYNAMIC_BATCH, Dim('batch', min=1)
    if options.dynamic_size:
        step, least = size_step(graph.model.backbone), smallest_side(graph.model.backbone)
        first = 1 if options.with_preprocessing else 2
        height, width = (step * Dim(name, min=least // step) for name in 'hw')
        axes |= {first: height, first + 1: width}
        # unlike each other, so that nothing is taken for equal
        size = least + step, least + 3 * step
    try:
        return _export(graph, graph.example(batch, size), {INPUT: axes} if axes else None)
    except Exception as error:  # the tracer lets every exception of a strategy's code through
        _name_strategy(graph.model.backbone)
        raise SegformerPlusPlusError(
            f'torch.export cannot trace the model: {_reason(error)}'
        ) from error


def _export(module: nn.Module, example: Tensor, axes: Any = None) -> ExportedProgram:
    with torch.no_grad(), chunked(False), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about the tracer itself
        return torch.export.export(module.eval(), (example,), dynamic_shapes=axes, strict=False)


def _reason(error: Exception) -> str:
    return ' '.join(str(error).split())[:250] or type(error).__name__


class _OneStrategy(nn.Module):
    """Merges and unmerges tokens by one strategy."""

    def __init__(self, merger: TokenMerger) -> None:
        super().__init__()
        self.merger = merger

    def forward(self, tokens: Tensor) -> Tensor:
        side = int(tokens.shape[1] ** 0.5)
        plan = self.merger.plan(tokens, (side, side))
        return plan.unmerge(plan.merge(tokens))


def _name_strategy(backbone: Any) -> None:
    """Raises for the first strategy that cannot be traced by itself; returns if all can."""
    for number, stage in enumerate(backbone.token_merging.stages, start=1):
        for side, merger in (('q', stage.q), ('kv', stage.kv)):
            if merger is None:
                continue
            try:
                _export(_OneStrategy(merger), torch.randn(1, 64, 8))
            except Exception as error:
                raise SegformerPlusPlusError(
                    f'the strategy {merger!r} (stage {number}, {side}) cannot be exported, since '
                    f'torch.export cannot trace its plan: {_reason(error)}; a plan has to be made '
                    'of tensor operations whose result sizes do not depend on what the tokens are'
                ) from error
