"""Writes, reads and runs the kinds of files that a model is exported to."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.export import ExportedProgram

from ..errors import SegformerPlusPlusError, first_line
from ..libraries import require
from .precision import check_precision
from .quantising import load_nncf, quantise_onnx, quantise_openvino, silenced

METADATA = 'segformer_plusplus'
"""The key under which a file holds its metadata, one JSON object."""

METADATA_VERSION = 2
"""Of what stands there; files of before there were versions say none."""

DIMENSIONS = ('batch', None, 'h', 'w')
"""What the symbols of dynamic axes of the images are called in an ONNX graph."""

Runner = Callable[[Tensor], Tensor]
"""Maps images to the one output, both on the CPU."""

Loader = Callable[[int], list[Runner]]
"""Loads a file for so many calls at a time: a runner for each, which share PyTorch's threads."""


class Format(ABC):
    """Writes, reads and runs one kind of file.

    Attributes:
        libraries: modules that writing and checking need.
        has_opset: whether its graph is made of the operators of an ONNX opset.
        refused: precisions that it does not have, and why.
    """

    name: str
    suffix: str
    libraries: tuple[str, ...] = ()
    has_opset = True
    refused: Mapping[str, str] = {}

    def require(self) -> None:
        """Raises a MissingDependencyError unless the libraries are installed."""
        for library in self.libraries:
            require(library, f'the format {self.name!r}')

    def check_precision(self, precision: str) -> None:
        """Raises a SegformerPlusPlusError unless a file can be made in it, and be checked here."""
        check_precision(precision)
        if precision in self.refused:
            raise SegformerPlusPlusError(f'precision={precision!r}: {self.refused[precision]}')

    @abstractmethod
    def convert(
        self, program: ExportedProgram, metadata: Mapping[str, Any], images: Sequence[Tensor] = ()
    ) -> Any:
        """Makes of a program, in the precision that the metadata says, what ``write`` takes.

        Args:
            program: of one input.
            metadata: of the file.
            images: batches of it that int8 is calibrated on.
        """

    @abstractmethod
    def write(self, graph: Any, path: Path, metadata: Mapping[str, Any]) -> None:
        """Writes what was converted, with the metadata in it, to a file that is not there yet."""

    @abstractmethod
    def read_metadata(self, path: Path) -> str | None:
        """Returns the JSON text under ``METADATA``, None where there is none."""

    @abstractmethod
    def loaders(self, path: Path) -> dict[str, Loader]:
        """Names the installed runtimes that run the file, by their modules, and how each does."""

    def runners(self, path: Path) -> dict[str, Runner]:
        """Loads the file in every installed runtime that runs it, in its precision on the CPU."""
        return {runtime: load(1)[0] for runtime, load in self.loaders(path).items()}


class OnnxFile(Format):
    """Writes one file with graph and weights, for ``onnxruntime.InferenceSession(path)``."""

    name = 'onnx'
    suffix = '.onnx'
    libraries = ('onnx', 'onnxscript', 'onnxruntime')
    refused = {
        'bf16': (
            'ONNX Runtime has no bfloat16 on a CPU; take fp16 or int8, or the format '
            "'openvino' or 'torch-export'"
        )
    }

    def convert(
        self, program: ExportedProgram, metadata: Mapping[str, Any], images: Sequence[Tensor] = ()
    ) -> Any:
        graph = onnx_graph(program, metadata, {torch.ops.aten.index_add.default: _index_add})
        _fit_for_runtimes(graph)
        if metadata['precision'] == 'int8':
            return quantise_onnx(graph, images)
        return _onnx_in_fp16(graph) if metadata['precision'] == 'fp16' else graph

    def write(self, graph: Any, path: Path, metadata: Mapping[str, Any]) -> None:
        import onnx

        onnx.helper.set_model_props(graph, {METADATA: json.dumps(metadata)})
        onnx.checker.check_model(graph)
        onnx.save(graph, path)

    def read_metadata(self, path: Path) -> str | None:
        import onnx

        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's own errors, which are no public classes
            raise SegformerPlusPlusError(f'{path} is no ONNX file: {error}') from error
        return {each.key: each.value for each in model.metadata_props}.get(METADATA)

    def loaders(self, path: Path) -> dict[str, Loader]:
        loaders: dict[str, Loader] = {'onnxruntime': partial(_onnxruntime_runners, path)}
        if find_spec('openvino') is not None:
            loaders['openvino'] = partial(_openvino_runners, path, self.read_metadata)
        return loaders


class TorchExportFile(Format):
    """Writes a graph of PyTorch's own operators, for ``torch.export.load(path).module()``."""

    name = 'torch-export'
    suffix = '.pt2'
    has_opset = False
    refused = {'int8': "PyTorch's graphs have none here; take the format 'openvino' or 'onnx'"}

    def convert(
        self, program: ExportedProgram, metadata: Mapping[str, Any], images: Sequence[Tensor] = ()
    ) -> Any:
        return program

    def write(self, graph: Any, path: Path, metadata: Mapping[str, Any]) -> None:
        extra = {f'{METADATA}.json': json.dumps(metadata)}
        # or all numbers of one image would stand in the file; torch 2.6 has no public way to it
        graph._example_inputs = None
        stream = io.BytesIO()  # PyTorch's own writer ends the process where a disk is full
        torch.export.save(graph, stream, extra_files=extra)
        path.write_bytes(stream.getbuffer())

    def read_metadata(self, path: Path) -> str | None:
        # not torch.export.load, which would build the whole program for it
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    # in a folder of any name, and before torch 2.7 in none
                    if name.endswith((f'/extra/{METADATA}.json', f'extra_files/{METADATA}.json')):
                        return archive.read(name).decode()
        except (OSError, zipfile.BadZipFile) as error:
            raise SegformerPlusPlusError(f'{path} is no file of torch.export: {error}') from error
        return None

    def loaders(self, path: Path) -> dict[str, Loader]:
        return {'torch': partial(_torch_runners, path)}


class OpenVinoFile(Format):
    """Writes the ONNX graph as ``.xml`` and the weights as ``.bin``; both have to lie together."""

    name = 'openvino'
    suffix = '.xml'
    libraries = ('onnx', 'onnxscript', 'openvino')

    def check_precision(self, precision: str) -> None:
        super().check_precision(precision)
        if precision == 'int8':
            load_nncf()
        if precision == 'bf16' and not computes_bfloat16():
            raise SegformerPlusPlusError(
                "precision='bf16': this processor computes no bfloat16 (OpenVINO knows), so that "
                'the file could not be checked; export it on one that does, or take fp16 or int8'
            )

    def convert(
        self, program: ExportedProgram, metadata: Mapping[str, Any], images: Sequence[Tensor] = ()
    ) -> Any:
        graph = _read_in_openvino(onnx_graph(program, metadata).SerializeToString())
        return quantise_openvino(graph, images) if metadata['precision'] == 'int8' else graph

    def write(self, graph: Any, path: Path, metadata: Mapping[str, Any]) -> None:
        graph.set_rt_info(json.dumps(metadata), [METADATA])
        # what is rounded to bfloat16 when it runs loses nothing in float16
        half = metadata['precision'] != 'fp32'
        require('openvino', 'OpenVINO').save_model(graph, path, compress_to_fp16=half)

    def read_metadata(self, path: Path) -> str | None:
        model = _read_in_openvino(path)
        return model.get_rt_info([METADATA]).astype(str) if model.has_rt_info([METADATA]) else None

    def loaders(self, path: Path) -> dict[str, Loader]:
        return {'openvino': partial(_openvino_runners, path, self.read_metadata)}


FORMATS: dict[str, Format] = {
    each.name: each for each in (OnnxFile(), TorchExportFile(), OpenVinoFile())
}
"""Every format by the name that ``export_model`` takes."""


def find_format(name: str) -> Format:
    """Returns the format of this name, or raises a SegformerPlusPlusError."""
    if name not in FORMATS:
        raise SegformerPlusPlusError(f'format={name!r} is unknown, use one of {list(FORMATS)}')
    return FORMATS[name]


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Says whether a name is that of an exported file, by how it ends."""
    return Path(path).suffix in {each.suffix for each in FORMATS.values()}


def format_of(path: Path) -> Format:
    """Returns the format that a file's name says, or raises a SegformerPlusPlusError."""
    if not path.is_file():
        raise SegformerPlusPlusError(f'exported model not found: {path}')
    for each in FORMATS.values():
        if path.suffix == each.suffix:
            return each
    suffixes = ', '.join(each.suffix for each in FORMATS.values())
    raise SegformerPlusPlusError(
        f'{path} is no exported model: its name ends in none of {suffixes}'
    )


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Returns what ``export_model`` recorded in a file: strategy, shape, normalisation, ...

    Raises:
        SegformerPlusPlusError: see ``find_metadata``; or the file was made otherwise.
        MissingDependencyError: the library that reads it is not installed.
    """
    metadata = find_metadata(path)
    if metadata is None:
        raise SegformerPlusPlusError(
            f'{path} has no metadata {METADATA!r}: it was not written by export_model'
        )
    return metadata


def find_metadata(path: str | Path) -> dict[str, Any] | None:
    """Returns what ``export_model`` recorded in a file; None if it did not write it.

    Raises:
        SegformerPlusPlusError: no such file, a damaged one, or one of a later version.
        MissingDependencyError: the library that reads it is not installed.
    """
    path = Path(path)
    kind = format_of(path)
    kind.require()
    text = kind.read_metadata(path)
    if not text:
        return None
    try:
        metadata: dict[str, Any] = json.loads(text)
        version = metadata.get('version', 1)
    except (ValueError, AttributeError) as error:
        raise SegformerPlusPlusError(f'{path}: its metadata is no JSON object: {error}') from error
    if not isinstance(version, int) or version > METADATA_VERSION:
        raise SegformerPlusPlusError(
            f'{path} was written by a later segformer-plusplus: its metadata has version '
            f'{version!r}, this one reads up to {METADATA_VERSION}; update it'
        )
    return metadata


def onnx_graph(
    program: ExportedProgram,
    metadata: Mapping[str, Any],
    translations: dict[Callable[..., Any], Callable[..., Any]] | None = None,
) -> Any:
    """Translates a program that takes images into an ``onnx.ModelProto``.

    Args:
        program: of one input.
        metadata: of the file.
        translations: of PyTorch's operators that are translated in another way than PyTorch does.

    Raises:
        SegformerPlusPlusError: an operator has no counterpart in the opset of the metadata.
    """
    opset = metadata['opset']
    refused = f'the model cannot be written with ONNX opset {opset}'
    with silenced():
        try:
            converted: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=opset,
                custom_translation_table=translations,
                input_names=[metadata['input']['name']],
                output_names=[metadata['output']['name']],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = ' '.join(str(error).splitlines()[-3:])
            raise SegformerPlusPlusError(f'{refused}: {reason}') from error
    model = converted.model_proto
    written = {each.version for each in model.opset_import if each.domain in ('', 'ai.onnx')}
    if written != {opset}:
        # the exporter warns, and writes another one, where it cannot convert between opsets
        raise SegformerPlusPlusError(
            f'{refused}: PyTorch wrote {sorted(written)}; choose another opset'
        )
    _name_dimensions(model.graph)
    return model


def _index_add(self: Any, dim: int, index: Any, source: Any, alpha: float = 1.0) -> Any:
    """Adds slices of ``source`` along an axis, as torch.index_add does, in ONNX.

    PyTorch's own translation is a ScatterND, in which ONNX Runtime, with more than one thread,
    loses some of what it adds to one place (seen with 1.32; its issues 18048 and 23396). Along the
    last axis, which is quicker there. OpenVINO adds one by one, and is quicker with ScatterND.
    """
    from onnxscript import opset18

    op: Any = opset18  # its own types are narrower than what it takes
    last = list(range(len(source.shape)))
    last[dim], last[-1] = last[-1], last[dim]
    if alpha != 1:
        source = op.Mul(source, op.CastLike(op.Constant(value_float=float(alpha)), source))
    source = op.Transpose(source, perm=last)
    index = op.Expand(index, op.Shape(source))
    total = op.Transpose(self, perm=last)
    total = op.ScatterElements(total, index, source, axis=-1, reduction='add')
    return op.Transpose(total, perm=last)


def _fit_for_runtimes(model: Any) -> None:
    """Changes an ``onnx.ModelProto`` where a runtime would refuse it, refuses where one would err.

    Raises:
        SegformerPlusPlusError: it has sums that ONNX Runtime gets wrong, see ``_index_add``.
    """
    for node in model.graph.node:
        settings = {each.name: each for each in node.attribute}
        if node.op_type == 'TopK' and 'sorted' in settings:
            settings['sorted'].i = 1  # TensorRT takes no other; the order decides nothing
        reduction = settings.get('reduction')
        if node.op_type == 'ScatterND' and reduction is not None and reduction.s != b'none':
            raise SegformerPlusPlusError(
                'a strategy adds with index_put_, of which ONNX Runtime loses some with more than '
                'one thread; write it with index_add or scatter_add'
            )


def _name_dimensions(graph: Any) -> None:
    """Gives the symbols of dynamic axes readable names throughout the graph."""
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


def _onnx_in_fp16(model: Any) -> Any:
    """Rounds an ``onnx.ModelProto`` to float16, but for its input and output."""
    from onnxruntime.transformers import float16, onnx_model

    # the sums of merging, which ONNX Runtime has in float32 alone on a CPU, and what its converter
    # does not know up to 1.23
    kept = [*float16.DEFAULT_OP_BLOCK_LIST, 'ScatterND', 'ScatterElements', 'ConstantOfShape']
    half = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=kept)
    onnx_model.OnnxModel.graph_topological_sort(half.graph)  # it appends the casts
    return half


@lru_cache(maxsize=1)
def openvino_core() -> Any:
    """Returns OpenVINO's runtime, kept for the life of the process.

    One, since every one maps a stack for signal handlers and on its end puts back what it found: of
    two, the stack of the first, unmapped by then. The next signal, say of a child process that
    ended, is a segmentation fault (seen with 2026.4).
    """
    return require('openvino', 'OpenVINO').Core()


def computes_bfloat16() -> bool:
    """Tells whether OpenVINO computes in bfloat16 on this processor."""
    return 'BF16' in openvino_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


def _read_in_openvino(file: Path | bytes) -> Any:
    """Reads a file, or the bytes of an ONNX model."""
    try:
        return openvino_core().read_model(file)
    except RuntimeError as error:
        name = file if isinstance(file, Path) else 'the ONNX graph'
        raise SegformerPlusPlusError(f'OpenVINO cannot read {name}: {_reason(error)}') from error


def _reason(error: RuntimeError) -> str:
    """Returns the last line of an error of OpenVINO, below those on where in its source it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def in_half(metadata: str | None) -> bool:
    """Tells whether OpenVINO computes a file in bfloat16 where it may, by its metadata.

    A file that is older than precisions, or not of ours, is float32. What of an int8 graph stays
    float is faster in bfloat16. Warns of a file in bfloat16 that is not computed so.
    """
    precision = json.loads(metadata or '{}').get('precision', 'fp32')
    half = precision in ('bf16', 'int8') and computes_bfloat16()
    if precision == 'bf16' and not half:
        print_log(
            'the file is bf16, which this processor does not compute: it runs in float32, slower',
            logger='current',
            level=logging.WARNING,
        )
    return half


def openvino_requests(model: Any, calls: int = 1, half: bool = False) -> list[Any]:
    """Compiles a model of OpenVINO for the CPU, with as many threads as PyTorch has.

    Args:
        model: that OpenVINO has read.
        calls: at a time; a single one has all threads to itself.
        half: in bfloat16, not in float32.

    Returns:
        A request for each of the calls.
    """
    settings = {
        'INFERENCE_PRECISION_HINT': 'bf16' if half else 'f32',
        'PERFORMANCE_HINT': 'LATENCY' if calls == 1 else 'THROUGHPUT',
        'PERFORMANCE_HINT_NUM_REQUESTS': calls,
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
    }
    compiled = openvino_core().compile_model(model, 'CPU', settings)
    return [compiled.create_infer_request() for _ in range(calls)]


def _openvino_runners(
    path: Path, read_metadata: Callable[[Path], str | None], calls: int
) -> list[Runner]:
    half = in_half(read_metadata(path))
    try:
        requests = openvino_requests(_read_in_openvino(path), calls, half)
    except RuntimeError as error:
        raise SegformerPlusPlusError(f'OpenVINO refuses {path}: {_reason(error)}') from error

    def run(request: Any, images: Tensor) -> Tensor:
        (result,) = request.infer([images.numpy()]).values()
        return torch.from_numpy(result.copy())

    return [partial(run, request) for request in requests]


def _onnxruntime_runners(path: Path, calls: int) -> list[Runner]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, torch.get_num_threads() // calls)
    options.log_severity_level = 4  # what fails is raised, too

    def load() -> Runner:
        try:
            session = onnxruntime.InferenceSession(
                path, options, providers=['CPUExecutionProvider']
            )
        except Exception as error:  # its errors have no common base class
            raise SegformerPlusPlusError(f'ONNX Runtime refuses {path}: {error}') from error
        (image,) = session.get_inputs()
        return lambda images: torch.from_numpy(session.run(None, {image.name: images.numpy()})[0])

    # one session has one pool of threads
    return [load() for _ in range(calls)]


def _torch_runners(path: Path, calls: int) -> list[Runner]:
    try:
        module = torch.export.load(path).module()
    except Exception as error:  # a damaged file can fail in any way
        raise SegformerPlusPlusError(
            f'{path} is no file of torch.export: {first_line(error)}'
        ) from error
    return [torch.no_grad()(lambda images: module(images))] * calls  # noqa: PLW0108 - a function
