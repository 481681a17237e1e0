"""export CONFIG CHECKPOINT --format NAME --out FILE: a model as a file for other runtimes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

from ..checkpoints import read_checkpoint
from ..errors import SegformerPlusPlusError
from ..export import FORMATS, Check, Export, export_model
from ..export.formats import find_format
from ..export.options import DEFAULT_OPSET, OPSETS
from ..inference.configs import load_config
from ..inference.opening import build_model, dataset_meta
from .guard import main_guard
from .options import add_config_arguments, parse_shape


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description='Write a model of mmseg or mmpose to a file that ONNX Runtime, OpenVINO or '
        'PyTorch run without this package, and compare it there with PyTorch on random images.',
        epilog='Exit code: 0, written and checked; 2, nothing is written.',
    )
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='weights')
    parser.add_argument(
        '--format', default='onnx', metavar='NAME', help=f'{", ".join(FORMATS)} (default: onnx)'
    )
    parser.add_argument(
        '--out', type=Path, required=True, metavar='FILE',
        help='ends in ' + ', '.join(f'{each.suffix} ({each.name})' for each in FORMATS.values()),
    )  # fmt: skip
    parser.add_argument('--token-merging', metavar='NAME', help="in place of the config's")
    what = parser.add_argument_group('what goes in and comes out')
    what.add_argument(
        '--shape', type=parse_shape, metavar='HxW', help="of the images (default: the config's)"
    )
    what.add_argument('--batch-size', type=int, default=1, metavar='N', help='(default: 1)')
    what.add_argument('--dynamic-batch', action='store_true', help='any number of images')
    what.add_argument(
        '--dynamic-size', action='store_true', help='any multiple of a step; not with matching'
    )
    what.add_argument(
        '--with-preprocessing', action='store_true',
        help='takes uint8 (B, H, W, 3) in RGB order and normalises it',
    )  # fmt: skip
    output = what.add_mutually_exclusive_group()
    for name, text in (
        ('logits', 'a quarter of the size of the images (default)'),
        ('labels', 'of the size of the images'),
    ):
        output.add_argument(f'--{name}', dest='output', action='store_const', const=name, help=text)
    parser.add_argument(
        '--opset', type=int, metavar='N',
        help=f'of ONNX, {OPSETS[0]} to {OPSETS[-1]} (default: {DEFAULT_OPSET})',
    )  # fmt: skip
    add_config_arguments(parser)
    return parser


@main_guard
def main(argv: Sequence[str], prog: str | None = None) -> int:
    """Runs the command and returns its exit code."""
    args = build_parser(prog).parse_args(argv)
    find_format(args.format)
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # init_weights lists parameters
    cfg = load_config(args.config, args.cfg_options)
    if 'model' not in cfg:
        raise SegformerPlusPlusError(f'{args.config} has no model')
    model: Any = build_model(cfg.model, cfg.get('default_scope', 'mmseg'), args.checkpoint)
    exported = export_model(
        model,
        args.out,
        format=args.format,
        shape=args.shape,
        batch_size=args.batch_size,
        dynamic_batch=args.dynamic_batch,
        dynamic_size=args.dynamic_size,
        output=args.output,
        with_preprocessing=args.with_preprocessing,
        opset=args.opset,
        token_merging=args.token_merging,
        class_names=find_class_names(cfg, args.checkpoint, model),
    )
    print_export(Console(), exported)
    return 0


def find_class_names(cfg: Config, checkpoint: str, model: Any) -> list[str] | None:
    """Names of the model's classes or keypoints: the checkpoint's, else those of the data set.

    None where neither has as many as the model.
    """
    meta: Any = read_checkpoint(checkpoint).get('meta') or {}
    trained_on = meta.get('dataset_meta') or {}
    if hasattr(model, 'head'):
        names = trained_on.get('keypoint_id2name') or {}
        found = [[names[index] for index in sorted(names)]]
        channels = model.head.out_channels
    else:
        from mmseg.registry import DATASETS

        tested_on = dataset_meta(cfg, {}, DATASETS)
        found = [list(each.get('classes') or ()) for each in (trained_on, tested_on)]
        channels = model.decode_head.out_channels
    return next((names for names in found if len(names) == channels), None)


def print_export(console: Console, exported: Export) -> None:
    """What was written, and how near it is to PyTorch."""
    metadata = exported.metadata
    table = Table(title=f'{exported.path}', title_justify='left')
    for column in ('runtime', 'inputs', 'relative error', 'equal labels', 'decided by rounding'):
        table.add_column(column, overflow='fold')
    for check in exported.checks:
        table.add_row(*_cells(check))
    console.print(table)
    dynamic = [name for name, value in metadata['dynamic'].items() if value] or ['nothing']
    opset = f', opset {metadata["opset"]}' if metadata['opset'] else ''
    console.print(
        f'{metadata["format"]}{opset}: {metadata["input"]["type"]} {metadata["input"]["layout"]} '
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
