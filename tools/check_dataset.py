"""Checks the data of a config: python tools/check_dataset.py CONFIG [--fix-list FILE]."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from segformer_plusplus.cli.guard import main_guard
from segformer_plusplus.cli.options import add_config_arguments
from segformer_plusplus.files import write_json
from segformer_plusplus.inference.configs import load_config
from tools.dataset_checks.inspection import IMAGES_PER_PROCESS, inspect_data, write_fix_lists
from tools.dataset_checks.sources import SPLITS
from tools.dataset_checks.summary import print_summary

FOUND = 1


def build_parser() -> argparse.ArgumentParser:
    """Returns the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Check all data that a config reads: every image and label map is opened, '
        'every annotation compared with its image. Exit code 0: no problems, 1: problems, 2: the '
        'data cannot be checked.'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--splits', nargs='+', choices=SPLITS, help='what to check (default: all of the config)'
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=min(4, os.cpu_count() or 1),
        metavar='N',
        help=f'processes at most, one for each {IMAGES_PER_PROCESS} images '
        '(default: one a core, 4 at most)',
    )
    parser.add_argument(
        '--limit', type=int, metavar='N', help='check only the first N images of each dataset'
    )
    parser.add_argument(
        '--no-hash', action='store_true', help='do not compare the images by content'
    )
    parser.add_argument('--json', metavar='FILE', help='write all findings to this file')
    parser.add_argument(
        '--fix-list',
        metavar='FILE',
        help='write the images to leave out, a file for each dataset: fix.txt gives '
        'fix.train.txt and fix.val.txt, for LeaveOut in the config',
    )
    add_config_arguments(parser)
    return parser


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns its exit code."""
    args = build_parser().parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    report = inspect_data(
        cfg, splits=args.splits, jobs=args.jobs, limit=args.limit, hashes=not args.no_hash
    )
    console = Console()
    print_summary(report, console)
    if args.json:
        write_json(args.json, report.as_dict())
        console.print(f'Wrote {args.json}', markup=False, highlight=False, soft_wrap=True)
    if args.fix_list:
        for path in write_fix_lists(report, args.fix_list):
            console.print(f'Wrote {path}', markup=False, highlight=False, soft_wrap=True)
    return FOUND if report.problems else 0


if __name__ == '__main__':
    sys.exit(main())
