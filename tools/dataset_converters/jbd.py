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
from tools.dataset_converters.jbd_conversion import (
    FRAMES_AS,
    MISSING_BOX,
    OUTSIDE,
    SplitReport,
    convert_jbd,
)

ROWS = {
    'rows in the csv file': 'rows',
    'frames converted': 'frames',
    'keypoints annotated in them': 'keypoints',
    'boxes made from keypoints': 'boxes_from_keypoints',
    'skipped: no box': 'skipped_without_box',
    'skipped: no keypoints': 'skipped_without_keypoints',
    'skipped: no box, too few keypoints': 'skipped_with_too_few_keypoints',
    'keypoints outside the frame, dropped': 'keypoints_outside',
}
NOTES = {
    'skipped_without_box': 'frame(s) skipped: bbox.csv has no box for them '
    '(--missing-box from-keypoints makes one)',
    'skipped_without_keypoints': 'frame(s) skipped: none of their keypoints is annotated',
    'skipped_with_too_few_keypoints': 'frame(s) skipped: bbox.csv has no box for them, '
    'and their keypoints span none',
    'boxes_from_keypoints': 'box(es) made from keypoints: bbox.csv has none for the frame',
    'keypoints_outside': 'keypoint(s) outside their frame taken as not annotated',
}


def table_of(reports: dict[str, SplitReport]) -> Table:
    """The counts of all splits, a column for each."""
    table = Table(title='Jump-Broadcast', title_justify='left')
    table.add_column('')
    for split in reports:
        table.add_column(split, justify='right')
    for title, name in ROWS.items():
        table.add_row(title, *(str(getattr(report, name)) for report in reports.values()))
    return table


def sentences(split: str, report: SplitReport) -> list[str]:
    """What was not taken over as it stands in the raw data, in words."""
    counts = {name: getattr(report, name) for name in NOTES}
    return [f'{split}: {count} {NOTES[name]}' for name, count in counts.items() if count]


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
    parser.add_argument(
        '--frames-as',
        choices=FRAMES_AS,
        default='link',
        help='symbolic links to the raw frames, which then must stay where they are, or copies '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--missing-box',
        choices=MISSING_BOX,
        default='skip',
        help='leave out a frame without a box, or make one around its keypoints '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--outside',
        choices=OUTSIDE,
        default='error',
        help='stop at a keypoint outside its frame, or take it as not annotated '
        '(default: %(default)s)',
    )
    add_traceback_argument(parser)
    args = parser.parse_args(argv)
    reports = convert_jbd(
        args.raw_dir,
        args.out,
        frames_dir=args.frames,
        frames_as=args.frames_as,
        missing_box=args.missing_box,
        outside=args.outside,
    )
    console = Console()
    console.print(table_of(reports))
    lines = [line for split, report in reports.items() for line in sentences(split, report)]
    strays = reports['train'].boxes_of_no_frame
    if strays:
        lines.append(f'bbox.csv: {strays} box(es) ignored: their frames are in neither csv file')
    for line in (*lines, f'Converted to {args.out}'):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
