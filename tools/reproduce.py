"""Measures the paper's tables: python tools/reproduce.py TABLE... [--data synthetic]."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console

from segformer_plusplus.cli.guard import add_traceback_argument, main_guard
from segformer_plusplus.cli.options import parse_positive
from segformer_plusplus.errors import SegformerPlusPlusError
from tools.paper_tables import (
    DTYPES,
    SYNTHETIC,
    TABLES,
    Reproduction,
    Settings,
    Store,
    SubprocessRunner,
    exit_code,
    find_rows,
    find_tables,
    show_plan,
)

ROOT = Path(__file__).resolve().parents[1]
INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(
        description="Measure the rows of the paper's tables and set them beside the paper's "
        'figures. Killed at any moment, the same command goes on where it was. See '
        'docs/reproduce.md for the layouts of data and the names of checkpoints.'
    )
    parser.add_argument(
        'tables', nargs='+', metavar='TABLE', help=f'{", ".join(TABLES)}, or all of them: all'
    )
    parser.add_argument('--rows', metavar='ROW,ROW', help='only these, such as none,hq')
    parser.add_argument(
        '--data', choices=['real', SYNTHETIC], default='real',
        help='synthetic: all at a small size on drawn data, with MiT-B0 (default: real)',
    )  # fmt: skip
    parser.add_argument(
        '--data-root', type=Path, default=Path('data'), metavar='DIR',
        help='holds cityscapes, ade, jump_broadcast, coco (default: data)',
    )  # fmt: skip
    parser.add_argument(
        '--checkpoints', type=Path, metavar='DIR', help='weights (default: checkpoints)'
    )
    parser.add_argument('--train', action='store_true', help='train rows that have no weights')
    parser.add_argument(
        '--out', type=Path, metavar='DIR',
        help='results and state (default: work_dirs/reproduce, or work_dirs/reproduce-synthetic)',
    )  # fmt: skip
    parser.add_argument('--dry-run', action='store_true', help='only say what would be done')
    how = parser.add_argument_group('how it is measured')
    how.add_argument('--device', choices=['cpu', 'cuda'], help='(default: cuda if there is one)')
    how.add_argument(
        '--dtype', choices=DTYPES, default='float32', help='of the speed-up (default: float32)'
    )
    how.add_argument(
        '--batch-size', type=parse_positive, metavar='N',
        help="of the speed-up (default: the table's on a GPU, 1 on a CPU)",
    )  # fmt: skip
    how.add_argument(
        '--rounds', type=parse_positive, metavar='N',
        help='of the speed-up (default: 10 on a GPU, 3 on a CPU)',
    )  # fmt: skip
    how.add_argument(
        '--iters', type=parse_positive, metavar='N', help='of training on drawn data (default: 60)'
    )
    add_traceback_argument(parser)
    return parser


def read_settings(args: argparse.Namespace, root: Path = ROOT) -> Settings:
    """What the command line asks for; paths become absolute, since the tools run in ``root``."""
    synthetic = args.data == SYNTHETIC
    if synthetic and args.checkpoints:
        raise SegformerPlusPlusError(
            '--checkpoints goes with --data real: on synthetic data small models are trained'
        )
    if args.iters and not synthetic:
        raise SegformerPlusPlusError('--iters goes with --data synthetic: configs say how long')
    out = args.out or Path('work_dirs', 'reproduce-synthetic' if synthetic else 'reproduce')
    return Settings(
        root=root,
        out=out.resolve(),
        data_root=args.data_root.resolve(),
        checkpoints=(args.checkpoints or Path('checkpoints')).resolve(),
        synthetic=synthetic,
        train=args.train,
        device=args.device or ('cuda' if torch.cuda.is_available() else 'cpu'),
        dtype=args.dtype,
        batch_size=args.batch_size,
        rounds=args.rounds,
        **({'iterations': args.iters} if args.iters else {}),
    )


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns its exit code."""
    args = build_parser().parse_args(argv)
    tables = find_tables(args.tables)
    names = None if args.rows is None else [name for name in args.rows.split(',') if name]
    rows = find_rows(tables, names)
    settings = read_settings(args)
    settings.check_tables(tables)
    store, console = Store(settings.out), Console()
    if args.dry_run:
        store.check(settings.data)
        return 0 if show_plan(settings, tables, rows, console) else 1
    with store.claim(settings.data) as lock:
        runner = SubprocessRunner(settings.root, lock)
        try:
            reports = Reproduction(settings, store, runner, console).run(tables, rows)
        except KeyboardInterrupt:
            console.print('interrupted: the same command goes on here', highlight=False)
            return INTERRUPTED
    for report in reports:
        console.print(report.to_markdown(), soft_wrap=True, highlight=False, markup=False)
    console.print(f'results in {settings.out}', soft_wrap=True, highlight=False)
    return exit_code(reports)


if __name__ == '__main__':
    sys.exit(main())
