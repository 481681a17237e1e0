"""Draws synthetic street scenes with pixel labels, laid out as Cityscapes or ADE20K."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from segformer_plusplus.cli.guard import add_traceback_argument, main_guard
from tools.dataset_files import height_by_width
from tools.dataset_generators.layouts import write_ade20k, write_cityscapes

LAYOUTS = {'cityscapes': write_cityscapes, 'ade20k': write_ade20k}


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out_dir', help='folder to fill; made if it is missing')
    parser.add_argument('--layout', choices=sorted(LAYOUTS), default='cityscapes')
    parser.add_argument('--train', type=int, default=200, help='training images (default: 200)')
    parser.add_argument('--val', type=int, default=20, help='validation images (default: 20)')
    parser.add_argument(
        '--size',
        type=height_by_width,
        default=(1024, 2048),
        metavar='HxW',
        help='height x width in pixels, 64x128 to 1024x2048 (default: 1024x2048)',
    )
    parser.add_argument('--seed', type=int, default=0, help='0 or more (default: 0)')
    parser.add_argument('--workers', type=int, default=2, help='processes (default: 2)')
    add_traceback_argument(parser)
    args = parser.parse_args(argv)
    LAYOUTS[args.layout](
        args.out_dir,
        train=args.train,
        val=args.val,
        size=args.size,
        seed=args.seed,
        workers=args.workers,
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
