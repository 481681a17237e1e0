"""Converts the raw Jump-Broadcast dataset (Ludwig et al. 2023) to COCO keypoint style."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console
from rich.table import Table

from segformer_plusplus.cli.options import command
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


@command
def main(
    raw_dir: str,
    /,
    *,
    out: str,
    frames: str | None = None,
    frames_as: Literal['link', 'copy'] = 'link',
    missing_box: Literal['skip', 'from-keypoints'] = 'skip',
    outside: Literal['error', 'drop'] = 'error',
) -> None:
    """Converts the raw Jump-Broadcast dataset (Ludwig et al. 2023) to COCO keypoint style.

    Args:
        raw_dir: holds train.csv, val.csv, bbox.csv and the event folders.
        out: folder to fill; it is made if it is missing.
        frames: holds the event folders (default: RAW_DIR).
        frames_as: symbolic links to the raw frames, which then must stay where they are, or copies.
        missing_box: leave out a frame without a box, or make one around its keypoints.
        outside: stop at a keypoint outside its frame, or take it as not annotated.
    """
    counts = convert_jbd(
        raw_dir,
        out,
        frames_dir=frames,
        copy=frames_as == 'copy',
        boxes_from_keypoints=missing_box == 'from-keypoints',
        drop_outside=outside == 'drop',
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
    for line in (*lines, f'Converted to {out}'):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == '__main__':
    sys.exit(main(prog='python tools/dataset_converters/jbd.py'))
