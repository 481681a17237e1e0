"""Converts Cityscapes' labels for training: *_labelIds.png to *_labelTrainIds.png beside them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from segformer_plusplus.cli.options import command
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.files import written_beside
from segformer_plusplus.libraries import require
from segformer_plusplus.loading.images import open_image
from tools.dataset_files import check_whole, reason, run

SOURCE, TARGET = '_gtFine_labelIds.png', '_gtFine_labelTrainIds.png'
IGNORED, UNKNOWN = 255, -1


def train_ids() -> tuple[int, ...]:
    """Returns the train id of each of the 256 ids, `UNKNOWN` for an id that Cityscapes lacks.

    Raises:
        MissingDependencyError: `cityscapesscripts`, which has the table, is not installed.
    """
    labels = require('cityscapesscripts.helpers.labels', 'the table of labels').labels
    table = [UNKNOWN] * 256
    for label in labels:
        if 0 <= label.id < len(table):  # license plates have -1: they are not in the files
            table[label.id] = label.trainId if label.trainId >= 0 else IGNORED
    return tuple(table)


def converted(source: Path) -> Path:
    """Returns the file of train ids beside a file of ids."""
    return source.with_name(source.name.replace(SOURCE, TARGET))


def convert(source: Path, table: Sequence[int]) -> None:
    """Converts one label map; the result is there whole or not at all.

    Raises:
        SegformerPlusPlusError: It cannot be read, or holds an id that the table does not have.
    """
    try:
        with open_image(source) as image:
            ids, mode = np.asarray(image), image.mode
    except Exception as error:  # a decoder meets damaged data with all kinds of errors
        raise SegformerPlusPlusError(f'{source} cannot be read: {reason(error)}') from error
    if mode not in ('L', 'P'):
        raise SegformerPlusPlusError(
            f'{source} has pixels of kind {mode!r}, expected one channel of 8 bits'
        )
    trained = np.asarray(table)[ids]
    unknown = ids[trained == UNKNOWN]
    if unknown.size:
        raise SegformerPlusPlusError(
            f'{source} has the id {unknown.min()}, which is none of Cityscapes; download the file '
            f'anew'
        )
    with written_beside(converted(source)) as place:
        Image.fromarray(trained.astype(np.uint8)).save(place)


@command
def main(root: str, /, *, overwrite: bool = False, jobs: int = 2) -> None:
    """Converts the labels of Cityscapes to those for training.

    Args:
        root: the Cityscapes folder; it holds gtFine.
        overwrite: convert again what is converted already.
        jobs: processes.
    """
    check_whole('jobs', jobs, 1)
    folder = Path(root)
    sources = sorted(folder.glob(f'gtFine/**/*{SOURCE}'))
    if not sources:
        raise SegformerPlusPlusError(
            f'no labels in {root}: expected are {root}/gtFine/<split>/<city>/*{SOURCE}, from '
            f'gtFine_trainvaltest.zip; see docs/data.md'
        )
    missing = [path for path in sources if overwrite or not converted(path).exists()]
    work = partial(convert, table=train_ids() if missing else ())
    done = run(work, missing, min(jobs, len(missing)))
    bar = Console(stderr=True)
    for _ in track(done, 'Converting labels', len(missing), console=bar, disable=not missing):
        pass
    there = len(sources) - len(missing)
    print(f'Converted {len(missing)} label map(s), {there} were there already')


if __name__ == '__main__':
    sys.exit(main(prog='python tools/dataset_converters/cityscapes.py'))
