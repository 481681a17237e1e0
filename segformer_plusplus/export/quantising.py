"""Quantises a graph to int8: every product with weights, in the ranges that images show.

What else computes stays in floating point: there labels are lost, or going to int8 and back takes
longer than it saves (docs/deployment.md). Weights have a scale per channel, activations a scale and
a zero point per tensor.
"""

from __future__ import annotations

import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import SegformerPlusPlusError
from ..libraries import require

KEPT_BACK = 5
"""Of so many images one is kept back for the check."""


@dataclass(frozen=True)
class Calibration:
    """Holds the images of a calibration, each as the graph takes it.

    Attributes:
        used: say the ranges.
        kept: are for the check.
    """

    used: Sequence[Tensor]
    kept: Sequence[Tensor]

    def describe(self, format: str) -> dict[str, Any]:
        """Returns what the metadata of a file says of it."""
        library = 'nncf' if format == 'openvino' else 'onnxruntime'
        return {
            'images': len(self.used),
            'kept_back': len(self.kept),
            'method': f'{library}, smallest and largest values',
            'version': version(library),
        }


@contextmanager
def silenced() -> Iterator[None]:
    """Keeps what the libraries print, warn and log about themselves off a user's terminal."""
    before = logging.root.manager.disable
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def split_images(images: Iterable[Tensor], example: Tensor) -> Calibration:
    """Divides images into those that calibrate and every fifth, at least one, for the check.

    Args:
        images: of one image each, (1, ...).
        example: images of the type and shape that the graph takes.

    Raises:
        SegformerPlusPlusError: fewer than two, or one that the graph does not take.
    """
    found, shape = list(images), (1, *example.shape[1:])
    for number, image in enumerate(found):
        kind: Any = type(image).__name__
        if isinstance(image, Tensor):
            kind = f'{image.dtype} {tuple(image.shape)}'
            if image.shape == shape and image.dtype == example.dtype and image.isfinite().all():
                continue
        raise SegformerPlusPlusError(
            f'calibration image {number} is {kind}; give finite numbers, {example.dtype} {shape}'
        )
    if len(found) < 2:
        raise SegformerPlusPlusError(
            f'{len(found)} image to calibrate on; int8 needs two at least, one of them for the '
            'check; 10 to 50 are better'
        )
    kept = found[KEPT_BACK - 1 :: KEPT_BACK] or found[-1:]
    used = [each for i, each in enumerate(found, 1) if i % KEPT_BACK][: len(found) - len(kept)]
    return Calibration(_batches(used, len(example)), _batches(kept, len(example)))


def _batches(images: Sequence[Tensor], size: int) -> list[Tensor]:
    """Puts images together; what lacks to the last batch is the last image again."""
    parts = [list(images[start : start + size]) for start in range(0, len(images), size)]
    return [torch.cat([*part, *part[-1:] * (size - len(part))]) for part in parts]


def quantise_openvino(graph: Any, images: Sequence[Tensor]) -> Any:
    """Quantises an ``openvino.Model`` by NNCF, without SmoothQuant and corrections of biases.

    Args:
        graph: of one input.
        images: batches of it.
    """
    nncf = load_nncf()
    with silenced():
        _fold_constants(graph)
        names = [
            node.get_friendly_name()
            for node in graph.get_ops()
            if not (_weighs(node) or node.get_type_name() in ('Parameter', 'Constant', 'Result'))
        ]
        return nncf.quantize(
            graph,
            nncf.Dataset([each.numpy() for each in images]),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=names, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
        )


def load_nncf() -> Any:
    """Imports NNCF, or raises a MissingDependencyError."""
    # it sends counts of its use to its makers unless it is told that it is in a test
    os.environ.setdefault('NNCF_CI', '1')
    with silenced():
        return require('nncf', "precision='int8' in OpenVINO")


def _fold_constants(graph: Any) -> None:
    """Computes what no image changes: weights that are slices of others are no constants yet."""
    passes = require('openvino.passes', 'OpenVINO')
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(graph)


def _weighs(node: Any) -> bool:
    """Tells whether this is a product with weights; depthwise convolutions are none."""
    kind = node.get_type_name()
    if kind not in ('MatMul', 'Convolution'):
        return False
    return node.input_value(1).get_node().get_type_name() == 'Constant'


def quantise_onnx(graph: Any, images: Sequence[Tensor]) -> Any:
    """Quantises an ``onnx.ModelProto`` by ONNX Runtime, with QuantizeLinear and DequantizeLinear.

    Args:
        graph: of one input.
        images: batches of it.
    """
    import onnx
    from onnxruntime import quantization

    with silenced(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'graph.onnx'
        folded = _folded_onnx(graph, path)
        weights = {each.name for each in folded.graph.initializer}
        names = [
            node.name
            for node in folded.graph.node
            if node.op_type in ('MatMul', 'Conv', 'Gemm')
            and node.input[1] in weights
            and all(each.i == 1 for each in node.attribute if each.name == 'group')
        ]
        quantization.quantize_static(
            folded,
            path,
            _Reader(folded.graph.input[0].name, images),
            nodes_to_quantize=names,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # what a convolution gives has to be int8 for its kernel to be taken
            extra_options={'OpTypesToExcludeOutputQuantization': ['MatMul', 'Gemm']},
        )
        return onnx.load(path)


def _folded_onnx(graph: Any, path: Path) -> Any:
    """Returns what ONNX Runtime makes of a graph in standard operators; the path is for a while."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    serialised = graph.SerializeToString()
    onnxruntime.InferenceSession(serialised, options, providers=['CPUExecutionProvider'])
    folded = onnx.load(path)
    standard = [each for each in folded.opset_import if not each.domain]
    del folded.opset_import[:]  # it lists its own operators too, none of which it took
    folded.opset_import.extend(standard)
    return folded


class _Reader:
    """Gives the images as ONNX Runtime's calibration asks for them, one after the other."""

    def __init__(self, name: str, images: Sequence[Tensor]) -> None:
        self._name, self._images = name, iter(images)

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {self._name: image.numpy()}
