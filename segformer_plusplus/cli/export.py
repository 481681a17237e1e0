"""segformer-plusplus export MODEL --out FILE: a model as a file for other runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import SegformerPlusPlusError
from ..export import Check, Export, export_model
from ..export.formats import find_format
from ..export.options import default_shape
from ..export.precision import check_calibration
from ..inference.opening import open_model
from ..segmentation.labels import class_counts
from .calibrating import read_images
from .given import read_weights
from .options import CfgOptions, Flat, Shape, command


@dataclass(frozen=True)
class Program:
    """Says what is exported, by the keywords of ``export_model``.

    Attributes:
        format: onnx, torch-export or openvino.
        token_merging: preset in place of the config's.
        shape: size of the images (default: the config's).
        batch_size: number of images.
        dynamic_batch: take any number of images.
        dynamic_size: take any multiple of a step as size.
        with_preprocessing: take uint8 (B, H, W, 3) in RGB order and normalise it.
        opset: opset of ONNX, 18 to 23 (default: 18).
        precision: fp32, bf16, fp16 or int8, what the file computes in.
    """

    format: str = 'onnx'
    token_merging: str | None = None
    shape: Shape | None = None
    batch_size: int = 1
    dynamic_batch: bool = False
    dynamic_size: bool = False
    with_preprocessing: bool = False
    opset: int | None = None
    precision: str = 'fp32'


@command
def main(
    config: str,
    checkpoint: str | None = None,
    /,
    *,
    out: Path,
    program: Annotated[Program, Flat] = Program(),
    logits: bool = False,
    labels: bool = False,
    calibrate: Path | None = None,
    cfg_options: CfgOptions = None,
) -> None:
    """Export a model for ONNX Runtime, OpenVINO or PyTorch.

    Writes a model of mmseg or mmpose to a file that runs without this package, and compares it
    there with PyTorch on random images, int8 on some of those that it is calibrated on. Exit code:
    0, written and checked; 2, nothing is written.

    Args:
        config: name of a model, see segformer-plusplus models; or a config file.
        checkpoint: weights, of any library that the package reads; a named model has its own.
        out: file that ends in .onnx (onnx), .pt2 (torch-export) or .xml (openvino).
        logits: output a quarter of the size of the images (default).
        labels: output labels of the size of the images.
        calibrate: folder of images like those that the model will see, which int8 needs: 10 to 50.
    """
    find_format(program.format).check_precision(program.precision)
    check_calibration(program.precision, calibrate is not None)
    if logits and labels:
        raise SegformerPlusPlusError('--logits and --labels exclude each other')
    cfg, checkpoint = read_weights(config, checkpoint, cfg_options, program.token_merging)
    cfg.default_scope = cfg.get('default_scope', 'mmseg')
    model = open_model(cfg, checkpoint, device='cpu')
    images = None
    if calibrate is not None:
        shape = program.shape or default_shape(model)
        images = read_images(model, calibrate, shape, program.with_preprocessing)
    exported = export_model(
        model,
        out,
        output='labels' if labels else 'logits' if logits else None,
        class_names=find_class_names(model),
        calibration=images,
        **vars(program),
    )
    print_export(Console(), exported)


def find_class_names(model: Any) -> list[str] | None:
    """Returns the names of a model's classes or keypoints, None where their number differs."""
    if hasattr(model, 'decode_head'):
        names = list(model.dataset_meta.get('classes') or ())
        return names if len(names) in class_counts(model.decode_head) else None
    by_index = model.dataset_meta.get('keypoint_id2name') or {}
    return [by_index[index] for index in sorted(by_index)] or None


def print_export(console: Console, exported: Export) -> None:
    """Prints what was written, and how near it is to PyTorch."""
    metadata = exported.metadata
    table = Table(title=escape(str(exported.path)), title_justify='left')
    for column in ('runtime', 'inputs', 'relative error', 'equal labels', 'decided by rounding'):
        table.add_column(column, overflow='fold')
    for check in exported.checks:
        table.add_row(*_cells(check))
    console.print(table)
    dynamic = [name for name, value in metadata['dynamic'].items() if value] or ['nothing']
    opset = f', opset {metadata["opset"]}' if metadata['opset'] else ''
    console.print(
        f'{metadata["format"]}{opset}, {metadata["precision"]}: '
        f'{metadata["input"]["type"]} {metadata["input"]["layout"]} '
        f'to {metadata["output"]["name"]}, dynamic: {" and ".join(dynamic)}',
        highlight=False,
        soft_wrap=True,
    )


def _cells(check: Check) -> list[str]:
    error, equal = check.relative_error, check.equal_labels
    return [
        check.runtime,
        ', '.join('x'.join(map(str, shape)) for shape in check.shapes),
        '-' if error is None else f'{error:.1e}',
        '-' if equal is None else f'{equal:.3%}',
        str(check.undecided),
    ]
