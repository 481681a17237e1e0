"""Converts Cityscapes' labels for training: *_labelIds.png to *_labelTrainIds.png beside them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from segformer_plusplus.cli.guard import add_traceback_argument, main_guard
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.files import replace
from segformer_plusplus.libraries import require
from tools.dataset_files import check_whole, run

SOURCE, TARGET = '_gtFine_labelIds.png', '_gtFine_labelTrainIds.png'
IGNORED, UNKNOWN = 255, -1


@dataclass(frozen=True)
class Job:
    """One label map to convert.

    Attributes:
        source: The file with ids.
        target: The file to write.
        table: The train id of each of the 256 ids, `UNKNOWN` where there is none.
    """

    source: Path
    target: Path
    table: tuple[int, ...]


def train_ids() -> tuple[int, ...]:
    """The train id of each of the 256 ids by the label table of `cityscapesscripts`.

    Raises:
        MissingDependencyError: It is not installed.
    """
    labels = require('cityscapesscripts.helpers.labels', 'the table of labels').labels
    table = [UNKNOWN] * 256
    for label in labels:
        if 0 <= label.id < len(table):  # license plates have -1: they are not in the files
            table[label.id] = label.trainId if label.trainId >= 0 else IGNORED
    return tuple(table)


def find_labels(root: Path) -> list[Path]:
    """All files with ids below a Cityscapes folder, sorted.

    Raises:
        SegformerPlusPlusError: There is none.
    """
    found = sorted(root.glob(f'gtFine/**/*{SOURCE}'))
    if not found:
        raise SegformerPlusPlusError(
            f'no labels in {root}: expected are {root}/gtFine/<split>/<city>/*{SOURCE}, from '
            f'gtFine_trainvaltest.zip; see docs/data.md'
        )
    return found


def convert(job: Job) -> Path:
    """Converts one label map; the file is there whole or not at all.

    Raises:
        SegformerPlusPlusError: It cannot be read, or holds an id that the table does not have.
    """
    try:
        with Image.open(job.source) as image:
            ids, mode = np.asarray(image), image.mode
    except Exception as error:  # a decoder meets damaged data with all kinds of errors
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise SegformerPlusPlusError(f'{job.source} cannot be read: {reason}') from error
    if mode not in ('L', 'P'):
        raise SegformerPlusPlusError(
            f'{job.source} has pixels of kind {mode!r}, expected one channel of 8 bits'
        )
    converted = np.asarray(job.table)[ids]
    unknown = np.unique(ids[converted == UNKNOWN])
    if len(unknown):
        raise SegformerPlusPlusError(
            f'{job.source} has the id {unknown[0]}, which is none of Cityscapes; download the '
            f'file anew'
        )
    buffer = BytesIO()
    Image.fromarray(converted.astype(np.uint8)).save(buffer, 'PNG')
    replace(job.target, buffer.getvalue())
    return job.target


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', metavar='ROOT', help='the Cityscapes folder; it holds gtFine')
    parser.add_argument(
        '--overwrite', action='store_true', help='convert again what is converted already'
    )
    parser.add_argument(
        '--jobs', type=int, default=2, metavar='N', help='processes (default: %(default)s)'
    )
    add_traceback_argument(parser)
    args = parser.parse_args(argv)
    check_whole('jobs', args.jobs, 1)
    sources = find_labels(Path(args.root))
    targets = {path: path.with_name(path.name.replace(SOURCE, TARGET)) for path in sources}
    missing = [path for path in sources if args.overwrite or not targets[path].exists()]
    table = train_ids() if missing else ()
    work = [Job(path, targets[path], table) for path in missing]
    done = run(convert, work, min(args.jobs, len(work)))
    for _ in track(
        done, 'Converting labels', len(work), console=Console(stderr=True), disable=not work
    ):
        pass
    print(f'Converted {len(work)} label map(s), {len(sources) - len(work)} were there already')
    return 0


if __name__ == '__main__':
    sys.exit(main())
