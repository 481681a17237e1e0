"""fidelity CONFIG CHECKPOINT: what strategies cost a trained model, and what they gain."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from rich.console import Console

from ..errors import SegformerPlusPlusError
from ..evaluation.fidelity.base import RADIUS, ROUNDS, WARMUP
from ..evaluation.fidelity.measuring import Measurement
from ..evaluation.fidelity.opening import open_fidelity
from ..evaluation.fidelity.report import FidelityReport, draw_fidelity, report
from ..evaluation.fidelity.strategies import read_strategies
from ..evaluation.plots import check_plot_path
from ..evaluation.timing import describe_environment
from ..files import check_writable, write_json, write_text
from ..inference.configs import load_config
from ..inference.opening import check_device
from ..token_merging import PRESETS
from .benchmark import INTERRUPTED
from .guard import interruptible, main_guard
from .options import add_config_arguments, parse_positive


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description='Measure what token merging strategies cost a trained model of mmseg or '
        'mmpose in accuracy, and what they gain in speed: the same weights on the same images '
        'under one strategy after the other. Segmentation: mIoU as segformer-plusplus test says '
        'it, mIoU of the thin and small classes, and how many pixels get another label than '
        'without merging. '
        'Pose: PCK, and by how many pixels keypoints move.',
        epilog='Exit code: 0, all is measured; 2, the call is wrong or a strategy failed; '
        f'{INTERRUPTED}, interrupted. What was measured before is printed and written all the '
        'same.',
    )
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        help='trained weights; of any library that the package reads',
    )
    parser.add_argument(
        '--strategies',
        nargs='+',
        metavar='NAME_OR_FILE',
        help=f'presets ({", ".join(PRESETS)}), or files that hold one: Python with '
        'token_merging = ..., or JSON with its content; the row has the name of the file. No '
        'merging is always measured, first (default: all presets that the model can run)',
    )
    what = parser.add_argument_group('what is measured on')
    what.add_argument(
        '--images', metavar='DIR',
        help="images without labels in place of the config's test set (for pose: each is one "
        'person); then only what merging changes is measured',
    )  # fmt: skip
    what.add_argument(
        '--limit', type=parse_positive, metavar='N', help='the first N images (people) only'
    )
    what.add_argument(
        '--fine-classes', nargs='+', metavar='NAME',
        help='of mIoU fine (default: the classes of which less than half lies farther than '
        f'{RADIUS} pixels from their border in the ground truth)',
    )  # fmt: skip
    how = parser.add_argument_group('how')
    how.add_argument('--device', choices=['cpu', 'cuda'], help='(default: cuda if there is one)')
    how.add_argument(
        '--rounds', type=parse_positive, default=ROUNDS, metavar='N',
        help=f'of timing, all strategies in turn, after {WARMUP} to warm up (default: {ROUNDS})',
    )  # fmt: skip
    how.add_argument('--no-progress', action='store_true', help='no bars')
    out = parser.add_argument_group('beside the table on the terminal')
    out.add_argument('--json', metavar='FILE', help='everything, with the strategies spelt out')
    out.add_argument('--markdown', metavar='FILE', help='the table')
    out.add_argument('--plot', metavar='FILE', help='accuracy over speed-up')
    add_config_arguments(parser)
    return parser


@main_guard
@interruptible()
def main(argv: Sequence[str], prog: str | None = None) -> int:
    """Runs the command and returns its exit code."""
    args = build_parser(prog).parse_args(argv)
    _check_arguments(args)
    # init_weights lists every parameter
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    console = Console()
    try:
        _run(console, args, f'{prog or "segformer-plusplus fidelity"} {shlex.join(argv)}')
    except KeyboardInterrupt:
        console.print('interrupted', highlight=False)
        return INTERRUPTED
    return 0


def _run(console: Console, args: argparse.Namespace, command: str) -> None:
    """Measure; whatever happens, what was measured is shown and written."""
    cfg = load_config(args.config, args.cfg_options)
    strategies = read_strategies(args.strategies)
    fidelity = open_fidelity(
        cfg,
        args.checkpoint,
        device=args.device,
        images=args.images,
        limit=args.limit,
        fine_classes=args.fine_classes,
        progress=not args.no_progress,
    )
    measurement = Measurement(fidelity, strategies, skip_unfit=args.strategies is None)
    try:
        measurement.run(args.rounds, WARMUP)
    finally:
        if measurement.rows():
            _write(console, report(measurement, command), args)
    if measurement.failed:
        reasons = (f'strategy {name!r}: {each}' for name, each in measurement.failed.items())
        raise SegformerPlusPlusError('; '.join(reasons))


def _check_arguments(args: argparse.Namespace) -> None:
    """What cannot go well is said before hours are spent."""
    for path in (args.json, args.markdown, args.plot):
        if path:
            check_writable(path)
    if args.plot:
        check_plot_path(args.plot)
    if args.device:
        check_device(args.device)


def _write(console: Console, found: FidelityReport, args: argparse.Namespace) -> None:
    console.print(found.to_rich())
    console.print(found.caption, highlight=False, markup=False)
    writers: list[Callable[[], None]] = []
    if args.json:
        content: dict[str, Any] = dict(
            arguments=vars(args), environment=describe_environment(), **found.to_json()
        )
        writers.append(partial(write_json, args.json, content))
    if args.markdown:
        writers.append(partial(write_text, args.markdown, found.to_markdown()))
    if args.plot and any(row.values and row.speed_up for row in found.rows):
        writers.append(partial(draw_fidelity, args.plot, found, Path(args.config).stem))
    errors = []
    for write in writers:
        try:
            write()
        except OSError as error:  # the others are written all the same
            errors.append(error)
    if errors:
        raise errors[0]
