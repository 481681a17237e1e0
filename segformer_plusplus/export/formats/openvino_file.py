"""OpenVINO's files, made from the ONNX graph: ``.xml`` for it and ``.bin`` with the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ...errors import SegformerPlusPlusError
from ...libraries import require
from .base import METADATA, Format, Runner
from .onnx_graph import onnx_graph


class OpenVinoFile(Format):
    """``openvino.Core().compile_model(path, 'CPU')`` runs it; both files have to lie together."""

    name = 'openvino'
    suffix = '.xml'
    libraries = ('onnx', 'onnxscript', 'openvino')

    def write(self, program: ExportedProgram, path: Path, metadata: Mapping[str, Any]) -> None:
        onnx = require('onnx', f'the format {self.name!r}')
        between = path.with_suffix('.onnx')
        onnx.save(onnx_graph(program, metadata), between)
        try:
            convert_to_openvino(between, path, metadata)
        finally:
            between.unlink()

    def read_metadata(self, path: Path) -> str | None:
        model = _read(path)
        return model.get_rt_info([METADATA]).astype(str) if model.has_rt_info([METADATA]) else None

    def runners(self, path: Path) -> dict[str, Runner]:
        return {'openvino': openvino_runner(path)}


def convert_to_openvino(source: Path, target: Path, metadata: Mapping[str, Any]) -> None:
    """Write an ONNX file as OpenVINO's two files, with weights in float32."""
    library = require('openvino', "the format 'openvino'")
    model = _read(source)
    model.set_rt_info(json.dumps(metadata), [METADATA])
    library.save_model(model, target, compress_to_fp16=False)


def openvino_runner(path: Path) -> Runner:
    """A file of OpenVINO or ONNX in OpenVINO, in float32 on the CPU.

    Raises:
        SegformerPlusPlusError: OpenVINO refuses it.
    """
    settings = {
        'INFERENCE_PRECISION_HINT': 'f32',
        'PERFORMANCE_HINT': 'LATENCY',
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
    }
    try:
        compiled = openvino_core().compile_model(_read(path), 'CPU', settings)
    except RuntimeError as error:
        raise SegformerPlusPlusError(f'OpenVINO refuses {path}: {error}') from error
    request = compiled.create_infer_request()

    def run(images: Tensor) -> Tensor:
        (result,) = request.infer([images.numpy()]).values()
        return torch.from_numpy(result.copy())

    return run


def _read(path: Path) -> Any:
    require('openvino', f'reading {path}')
    try:
        return openvino_core().read_model(path)
    except RuntimeError as error:
        raise SegformerPlusPlusError(f'OpenVINO cannot read {path}: {error}') from error


@lru_cache(maxsize=1)
def openvino_core() -> Any:
    """OpenVINO's runtime, kept for the life of the process.

    One, since every one maps a stack for signal handlers and on its end puts back what it found: of
    two, the stack of the first, unmapped by then. The next signal, say of a child process that
    ended, is a segmentation fault (seen with 2026.4).
    """
    return require('openvino', 'OpenVINO').Core()
