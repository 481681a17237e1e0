"""ONNX files: one graph that ONNX Runtime and OpenVINO both run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ...errors import SegformerPlusPlusError
from ...libraries import require
from .base import METADATA, Format, Runner
from .onnx_graph import onnx_graph
from .openvino_file import openvino_runner


class OnnxFile(Format):
    """``onnxruntime.InferenceSession(path)`` runs it; the weights are in the one file."""

    name = 'onnx'
    suffix = '.onnx'
    libraries = ('onnx', 'onnxscript', 'onnxruntime')

    def write(self, program: ExportedProgram, path: Path, metadata: Mapping[str, Any]) -> None:
        onnx = require('onnx', f'the format {self.name!r}')
        model = onnx_graph(program, metadata)
        onnx.helper.set_model_props(model, {METADATA: json.dumps(metadata)})
        onnx.checker.check_model(model)
        onnx.save(model, path)

    def read_metadata(self, path: Path) -> str | None:
        onnx = require('onnx', f'the format {self.name!r}')
        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's own errors, which are no public classes
            raise SegformerPlusPlusError(f'{path} is no ONNX file: {error}') from error
        return {each.key: each.value for each in model.metadata_props}.get(METADATA)

    def runners(self, path: Path) -> dict[str, Runner]:
        runners = {'onnxruntime': _onnxruntime_runner(path)}
        if find_spec('openvino') is not None:
            runners['openvino'] = openvino_runner(path)
        return runners


def _onnxruntime_runner(path: Path) -> Runner:
    library = require('onnxruntime', 'running an ONNX file')
    options = library.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what fails is raised, too
    try:
        session = library.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    except Exception as error:  # its errors have no common base class
        raise SegformerPlusPlusError(f'ONNX Runtime refuses {path}: {error}') from error
    (image,) = session.get_inputs()

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {image.name: images.numpy()})[0])

    return run
