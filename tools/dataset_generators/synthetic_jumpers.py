"""Draws synthetic jumpers with keypoints, laid out as Jump-Broadcast or COCO 2017."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from segformer_plusplus.cli.guard import add_traceback_argument, main_guard
from tools.dataset_files import height_by_width
from tools.dataset_generators.jumper_layouts import write_coco, write_jbd, write_jbd_raw

LAYOUTS = {
    'jbd': (write_jbd, (540, 960)),
    'jbd-raw': (write_jbd_raw, (540, 960)),
    'coco': (write_coco, (480, 640)),
}


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out_dir', help='folder to fill; made if it is missing')
    parser.add_argument(
        '--layout',
        choices=sorted(LAYOUTS),
        default='jbd',
        help='jbd: converted, with COCO keypoint files; jbd-raw: as distributed, with csv files; '
        'coco: COCO 2017 (default: jbd)',
    )
    parser.add_argument('--train', type=int, default=500, help='training images (default: 500)')
    parser.add_argument('--val', type=int, default=50, help='validation images (default: 50)')
    parser.add_argument(
        '--size',
        type=height_by_width,
        metavar='HxW',
        help='height x width in pixels, 96x128 to 1080x1920 (default: 540x960, for coco 480x640)',
    )
    parser.add_argument('--seed', type=int, default=0, help='0 or more (default: 0)')
    parser.add_argument('--workers', type=int, default=2, help='processes (default: 2)')
    add_traceback_argument(parser)
    args = parser.parse_args(argv)
    write, usual_size = LAYOUTS[args.layout]
    write(
        args.out_dir,
        train=args.train,
        val=args.val,
        size=args.size or usual_size,
        seed=args.seed,
        workers=args.workers,
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
