"""Exports a model: traces it, writes beside, checks, and only then takes the asked name."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from ..errors import SegformerPlusPlusError
from ..files import naming_the_file
from .checking import Check, check_export, describe_checks
from .description import describe_export
from .formats import find_format
from .graph import ExportGraph, trace
from .options import ExportOptions, check_model, check_target, default_shape
from .precision import check_calibration
from .quantising import Calibration, split_images


@dataclass(frozen=True)
class Export:
    """Describes a file that was written, and how near it is to PyTorch in every runtime."""

    path: Path
    metadata: dict[str, Any]
    checks: list[Check]


def export_model(
    model: nn.Module,
    path: str | Path,
    *,
    format: str = 'onnx',
    shape: tuple[int, int] | None = None,
    batch_size: int = 1,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    output: str | None = None,
    with_preprocessing: bool = False,
    opset: int | None = None,
    precision: str = 'fp32',
    calibration: Iterable[Tensor] | None = None,
    token_merging: str | Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
) -> Export:
    """Writes a model to a file that other runtimes run, and compares it with PyTorch.

    The model is not changed. What lies under ``path`` is replaced only by a file that has passed
    ``checking.check_export``. See ``options.ExportOptions`` for the options that are
    not listed here.

    Args:
        model: a segmentor of mmseg or a pose estimator of mmpose with our backbone, in float32.
        path: ends in '.onnx', '.pt2' or '.xml' (OpenVINO, with a '.bin' beside it).
        shape: height and width of the images; by default those that the model's config names.
        output: 'logits', 'labels' or 'heatmaps'; by default logits, of a pose estimator heatmaps.
        token_merging: other strategies than those of the model, see
            ``segformer_plusplus.MixVisionTransformerPlusPlus``.
        class_names: recorded in the file.
        calibration: for int8, images as the graph takes them, (1, ...) each, such as those that it
            will see; every fifth is kept back for the check.

    Raises:
        SegformerPlusPlusError: something does not fit, cannot be traced or written, or the file
            differs from the model; nothing is then written.
        MissingDependencyError: a library of the format is not installed.
    """
    path = Path(path)
    find_format(format).require()
    check_target(path, format)
    check_calibration(precision, calibration is not None)
    reference = _prepare(model, token_merging)
    options = ExportOptions(
        format=format,
        shape=default_shape(reference) if shape is None else shape,
        batch_size=batch_size,
        dynamic_batch=dynamic_batch,
        dynamic_size=dynamic_size,
        output=output or ('logits' if hasattr(reference, 'decode_head') else 'heatmaps'),
        with_preprocessing=with_preprocessing,
        opset=opset,
        precision=precision,
    )
    check_model(reference, options)
    graph = ExportGraph(reference, options).eval()
    example = graph.example(options.batch_size, options.shape)
    images = Calibration((), ()) if calibration is None else split_images(calibration, example)
    metadata = describe_export(reference, options, class_names)
    metadata['calibration'] = images.describe(format) if images.used else None
    with torch.inference_mode():  # what the model itself has against this size is told here
        graph(graph.example(1, options.shape))
    with _folder_beside(path) as folder, naming_the_file(path):
        kind, beside = find_format(format), Path(folder) / path.name
        converted = kind.convert(trace(graph), metadata, images.used)
        kind.write(converted, beside, metadata)
        checks = check_export(beside, reference, images=images.kept)
        metadata['check'] = describe_checks(checks, precision)
        # anew, as a runtime may still read the file
        beside = beside.parent / 'checked' / path.name
        beside.parent.mkdir()
        kind.write(converted, beside, metadata)
        # the file itself takes its place after what lies beside it
        for each in sorted(beside.parent.iterdir(), key=lambda each: each == beside):
            os.replace(each, path.parent / each.name)
    return Export(path, metadata, checks)


def _prepare(model: Any, token_merging: Any) -> Any:
    """Copies a model to the CPU, in eval mode and with these strategies."""
    wrong = {each.dtype for each in model.parameters() if each.dtype != torch.float32}
    if wrong:
        raise SegformerPlusPlusError(
            f'the model has parameters in {sorted(map(str, wrong))}; what is exported is float32 '
            '(model.float()), whatever the precision of the file'
        )
    copied = revert_sync_batchnorm(copy.deepcopy(model)).cpu().eval()
    if token_merging is not None:
        if not hasattr(getattr(copied, 'backbone', None), 'set_token_merging'):
            raise SegformerPlusPlusError(
                f'token_merging={token_merging!r}: the model has no backbone that merges tokens'
            )
        copied.backbone.set_token_merging(token_merging)
    return copied


def _folder_beside(path: Path) -> tempfile.TemporaryDirectory[str]:
    """Makes a new folder on the same disk, which goes away with all that is in it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=f'.{path.name}.', dir=path.parent)
    except OSError as error:
        raise SegformerPlusPlusError(
            f'cannot write to the folder {path.parent}: {error.strerror}'
        ) from error
