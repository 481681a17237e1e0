"""A segmentor in OpenVINO: the graph that PyTorch's tracer sees, on a CPU."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SegformerPlusPlusError
from ...export.formats import openvino_core
from ...inference.labels import resize_and_argmax
from ...libraries import require
from ...mit.cpu import chunked
from .contenders import Contender, OpenMMLabModel, size_of

Part = Callable[..., list[Tensor]]


class OpenVinoModel(Contender):
    """A segmentor converted to OpenVINO, from images to labels in one graph of fixed shape.

    The source is mmseg's own model, what people have; or ours, unmerged, with its plain operators:
    without the big concat of mmseg's head, its graph runs faster in OpenVINO, too. Compiled for
    latency in float32, with as many threads as PyTorch has, anew when shape or threads change.
    Images go in and results come out without a copy: a result lives until the next call.

    Args:
        segmentor: on the CPU, in float32.
        source: what it is, for the record.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        SegformerPlusPlusError: another device or precision.
    """

    uses_torch = False

    def __init__(self, segmentor: nn.Module, source: str) -> None:
        first = next(segmentor.parameters())
        check_openvino(first.device.type, first.dtype)
        plain = copy.deepcopy(segmentor)
        self._source = OpenMMLabModel(plain)
        super().__init__(plain, self._source.backbone)
        self.details = {'source': source, 'precision': 'f32', 'hint': 'LATENCY'}
        self._parts: dict[str, tuple[Any, Part]] = {}

    @property
    def arithmetic(self) -> Contender:
        return self._source

    def features(self, images: Tensor) -> list[Tensor]:
        return self._part('features', self._source.features, images)

    def head(self, features: Sequence[Tensor]) -> Tensor:
        def head(*levels: Tensor) -> Tensor:
            return self._source.head(levels)

        return self._part('head', head, *features)[0]

    def labels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        def labels(logits: Tensor) -> Tensor:
            return resize_and_argmax(logits, size)

        return self._part('labels', labels, logits)[0]

    def logits(self, images: Tensor) -> Tensor:
        return self._part('logits', self._source.logits, images)[0]

    def predict(self, images: Tensor) -> Tensor:
        def whole(images: Tensor) -> Tensor:
            return resize_and_argmax(self._source.logits(images), size_of(images))

        return self._part('whole', whole, images)[0]

    def _part(self, name: str, function: Callable[..., Any], *inputs: Tensor) -> list[Tensor]:
        """Run a part; the first call for these shapes and threads converts and compiles it."""
        key = [each.shape for each in inputs], torch.get_num_threads()
        known, part = self._parts.get(name, (None, None))
        if part is None or known != key:
            part = _compile(self.module, function, inputs)
            self._parts[name] = key, part
        return part(*inputs)


def check_openvino(device: str, dtype: torch.dtype) -> None:
    """Raise unless OpenVINO is compared on the CPU in float32."""
    if device != 'cpu' or dtype != torch.float32:
        raise SegformerPlusPlusError(
            f'--against openvino works with --device cpu --dtype float32, not with {device} and '
            f'{str(dtype).removeprefix("torch.")}'
        )


class _Traced(nn.Module):
    """A function as a module, with the module that its weights belong to."""

    def __init__(self, owner: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.owner = owner
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        result = self.function(*inputs)
        return tuple(result) if isinstance(result, list) else result


def _compile(owner: nn.Module, function: Callable[..., Any], inputs: Sequence[Tensor]) -> Part:
    """The function for inputs of these shapes, on tensors of PyTorch."""
    library = require('openvino', '--against openvino')
    traced = _Traced(owner, function).eval()
    shapes = [list(each.shape) for each in inputs]
    with torch.inference_mode(), chunked(False), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the tracer's, about sizes that are fixed here
        converted = library.convert_model(traced, example_input=tuple(inputs), input=shapes)
    settings = {
        'INFERENCE_PRECISION_HINT': 'f32',
        'PERFORMANCE_HINT': 'LATENCY',
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
    }
    request = openvino_core().compile_model(converted, 'CPU', settings).create_infer_request()

    def run(*inputs: Tensor) -> list[Tensor]:
        arrays = [each.numpy() for each in inputs]
        results = request.infer(arrays, share_inputs=True, share_outputs=True)
        return [torch.from_numpy(each) for each in results.values()]

    return run
