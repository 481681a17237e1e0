"""From a program of PyTorch to a graph of ONNX operators."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import torch
from torch.export import ExportedProgram

from ...errors import SegformerPlusPlusError
from ...libraries import require

DIMENSIONS = ('batch', None, 'h', 'w')
"""What the symbols of dynamic axes of the images are called in the file."""


def onnx_graph(program: ExportedProgram, metadata: Mapping[str, Any]) -> Any:
    """The program as an ``onnx.ModelProto``.

    Args:
        program: takes images.
        metadata: has 'opset', 'input' and 'output'.

    Raises:
        SegformerPlusPlusError: an operator has no counterpart in this opset.
    """
    require('onnxscript', 'ONNX')
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')  # about the exporter's own future
        try:
            converted: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=metadata['opset'],
                input_names=[metadata['input']['name']],
                output_names=[metadata['output']['name']],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = ' '.join(str(error).splitlines()[-3:])
            raise SegformerPlusPlusError(
                f'the model cannot be written with ONNX opset {metadata["opset"]}: {reason}'
            ) from error
    model = converted.model_proto
    written = {each.version for each in model.opset_import if each.domain in ('', 'ai.onnx')}
    if written != {metadata['opset']}:
        # the exporter warns, and writes another one, where it cannot convert between opsets
        raise SegformerPlusPlusError(
            f'the model cannot be written with ONNX opset {metadata["opset"]}: PyTorch wrote '
            f'{sorted(written)}; choose another opset'
        )
    _name_dimensions(model.graph)
    return model


def _name_dimensions(graph: Any) -> None:
    """Call the symbols of dynamic axes by readable names, throughout the graph."""
    names: dict[str, str] = {}
    for axis, name in zip(graph.input[0].type.tensor_type.shape.dim, DIMENSIONS, strict=True):
        symbol = re.search(r'[a-z]\w*', axis.dim_param)
        if symbol and name:
            names[symbol[0]] = name
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(
                    r'[a-z]\w*', lambda match: names.get(match[0], match[0]), axis.dim_param
                )
