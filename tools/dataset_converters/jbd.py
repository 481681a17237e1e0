"""Converts the raw Jump-Broadcast dataset (Ludwig et al. 2023) to COCO keypoint style."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console
from rich.table import Table

from segformer_plusplus.cli.guard import add_traceback_argument, main_guard
from tools.dataset_converters.jbd_conversion import convert_jbd

COUNTS = {
    'rows': ('rows in the csv file', ''),
    'frames': ('frames converted', ''),
    'keypoints': ('keypoints annotated in them', ''),
    'boxes_from_keypoints': (
        'boxes made from keypoints',
        'box(es) made from keypoints: bbox.csv has none for the frame',
    ),
    'skipped_without_box': (
        'skipped: no box',
        'frame(s) skipped: bbox.csv has no box for them (--missing-box from-keypoints makes one)',
    ),
    'skipped_without_keypoints': (
        'skipped: no keypoints',
        'frame(s) skipped: none of their keypoints is annotated',
    ),
    'skipped_with_too_few_keypoints': (
        'skipped: no box, too few keypoints',
        'frame(s) skipped: bbox.csv has no box for them, and their keypoints span none',
    ),
    'keypoints_outside': (
        'keypoints outside the frame, dropped',
        'keypoint(s) outside their frame taken as not annotated',
    ),
}
"""What is counted: the row of the table, and a sentence for what differs from the raw data."""


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'raw_dir',
        metavar='RAW_DIR',
        help='holds train.csv, val.csv, bbox.csv and the event folders',
    )
    parser.add_argument(
        '--out', required=True, metavar='DIR', help='folder to fill; made if it is missing'
    )
    parser.add_argument(
        '--frames', metavar='DIR', help='holds the event folders (default: RAW_DIR)'
    )
    choices = {
        '--frames-as': (
            ('link', 'copy'),
            'symbolic links to the raw frames, which then must stay where they are, or copies',
        ),
        '--missing-box': (
            ('skip', 'from-keypoints'),
            'leave out a frame without a box, or make one around its keypoints',
        ),
        '--outside': (
            ('error', 'drop'),
            'stop at a keypoint outside its frame, or take it as not annotated',
        ),
    }
    for option, (names, text) in choices.items():
        text += ' (default: %(default)s)'
        parser.add_argument(option, choices=names, default=names[0], help=text)
    add_traceback_argument(parser)
    args = parser.parse_args(argv)
    counts = convert_jbd(
        args.raw_dir,
        args.out,
        frames_dir=args.frames,
        copy=args.frames_as == 'copy',
        boxes_from_keypoints=args.missing_box == 'from-keypoints',
        drop_outside=args.outside == 'drop',
    )
    table = Table('', title='Jump-Broadcast', title_justify='left')
    for split in counts:
        table.add_column(split, justify='right')
    for name, (title, _) in COUNTS.items():
        table.add_row(title, *(str(each[name]) for each in counts.values()))
    lines = [
        f'{split}: {each[name]} {note}'
        for split, each in counts.items()
        for name, (_, note) in COUNTS.items()
        if note and each[name]
    ]
    strays = counts['train']['boxes_of_no_frame']
    if strays:
        lines.append(f'bbox.csv: {strays} box(es) ignored: their frames are in neither csv file')
    console = Console()
    console.print(table)
    for line in (*lines, f'Converted to {args.out}'):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
