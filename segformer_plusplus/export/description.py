"""Describes an exported file, for those who run it and for the check."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor

from ..errors import SegformerPlusPlusError
from ..segmentation.labels import class_counts
from ..token_merging import TokenMerging
from ..token_merging.config import find_preset
from ..version import __version__
from .formats import METADATA_VERSION
from .graph import INPUT
from .options import ExportOptions, size_step, smallest_side
from .predicting import describe_predicting


def describe_export(
    model: Any, options: ExportOptions, class_names: Sequence[str] | None
) -> dict[str, Any]:
    """Returns the metadata of a file, made of what JSON can hold.

    Raises:
        SegformerPlusPlusError: there are not as many class names as channels of the output.
    """
    head = model.head if options.output == 'heatmaps' else model.decode_head
    channels = int(head.out_channels)
    output: dict[str, Any] = {'name': options.output, 'channels': channels}
    if channels == 1 and options.output != 'heatmaps':  # of the logit's sigmoid, for label 1
        output['threshold'] = head.threshold
    allowed = (channels,) if options.output == 'heatmaps' else class_counts(head)
    if class_names is not None and len(class_names) not in allowed:
        raise SegformerPlusPlusError(
            f'{len(class_names)} class_names given, the model has {channels} channels'
        )
    versions = {'segformer_plusplus': __version__}
    for package in ('torch', 'onnx', 'onnxscript', 'openvino'):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        'version': METADATA_VERSION,
        'format': options.format,
        'opset': options.written_opset,
        'precision': options.precision,
        'input': _describe_input(model, options),
        'output': output,
        'shape': list(options.shape),
        'batch_size': None if options.dynamic_batch else options.batch_size,
        'dynamic': {'batch': options.dynamic_batch, 'size': options.dynamic_size},
        'size_step': size_step(model.backbone) if options.dynamic_size else None,
        'smallest_side': smallest_side(model.backbone) if options.dynamic_size else None,
        'token_merging': describe_merging(model.backbone.token_merging),
        'class_names': None if class_names is None else list(class_names),
        'predicting': describe_predicting(model),
        'versions': versions,
    }


def describe_merging(merging: TokenMerging) -> dict[str, Any]:
    """Returns the strategies of every stage, and the preset that they are, if they are one."""
    stages = [
        dict(
            q=_repr(each.q),
            kv=_repr(each.kv),
            proportional_attention=each.proportional_attention,
            share=each.share,
        )
        for each in merging.stages
    ]
    downsampling = _repr(merging.downsampling)
    return {'preset': find_preset(merging), 'stages': stages, 'downsampling': downsampling}


def _repr(value: Any) -> str | None:
    return None if value is None else repr(value)


def _describe_input(model: Any, options: ExportOptions) -> dict[str, Any]:
    """Tells name, layout and type, and how 0..255 images are, or have to be, normalised."""
    settings = model.data_preprocessor
    normalises = bool(getattr(settings, '_enable_normalize', False))
    converts = getattr(settings, '_channel_conversion', None)
    inside = options.with_preprocessing
    channels = model.backbone.in_channels
    order = None if converts is None or channels != 3 else 'RGB' if converts else 'BGR'
    return {
        'name': INPUT,
        'layout': 'NHWC' if inside else 'NCHW',
        'type': 'uint8' if inside else 'float32',
        'channels': channels,
        'channel_order': 'RGB' if inside and channels == 3 else order,
        'normalisation': {
            'inside': inside,
            'channel_order': order,
            'mean': _numbers(settings.mean) if normalises else None,
            'std': _numbers(settings.std) if normalises else None,
        },
    }


def _numbers(values: Tensor) -> list[float]:
    """Returns the numbers of a (C, 1, 1) tensor in float32 as they were written."""
    return [round(float(value), 4) for value in values.flatten()]
