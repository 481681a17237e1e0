"""Converts Leeds Sports Pose Extended (Johnson and Everingham 2011) to COCO keypoint style."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from segformer_plusplus.cli.options import command
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.libraries import require
from segformer_plusplus.loading.images import exif_orientation, open_image
from segformer_plusplus.pose.keypoints import LSP
from tools.dataset_converters.coco_files import (
    Person,
    Point,
    box_around,
    check_out,
    coco_file,
    count,
    write_frame,
    write_json,
)
from tools.dataset_files import reason

SPLITS = 'train', 'val'
_FILE = re.compile(r'\w[\w.-]*')

VAL_EVERY = 10
"""Of the published set, which has no splits, every image whose number this divides is for val."""

COUNTS = {
    'images': 'images listed',
    'people': 'people converted',
    'keypoints': 'keypoints annotated on them',
    'outside': 'keypoints outside their image, taken as not annotated',
    'missing': 'skipped: no image file',
    'unreadable': 'skipped: image cannot be read',
    'turned': 'skipped: turned by EXIF, its joints are not',
    'size': 'skipped: image has not the size that its joints are for',
    'too_few': 'skipped: too few keypoints for a box',
}
"""What is counted, and the row of the table."""


@dataclass(frozen=True)
class Entry:
    """Holds what is annotated of an image.

    Attributes:
        file: its name in the folder of images.
        split: one of `SPLITS`.
        points: (14, 2) x and y in pixels, in the order of `LSP.names`.
        annotated: (14,) bool.
        size: width and height that the points are for; None where that is not known.
    """

    file: str
    split: str
    points: np.ndarray
    annotated: np.ndarray
    size: tuple[int, int] | None = None


@dataclass
class Split:
    """Holds what became of the images of a split.

    Attributes:
        people: those that are written.
        counts: by the keys of `COUNTS`.
        first: the first image that each count is about.
    """

    people: list[Person] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, about: str) -> None:
        """Counts something about an image."""
        self.counts[what] += 1
        self.first.setdefault(what, about)

    def remarks(self) -> list[str]:
        """Says what was left out, how often, and of which image first."""
        return [
            f'{COUNTS[what]}: {self.counts[what]}, such as {about}'
            for what, about in self.first.items()
            if what != 'images'
        ]


def read_mat(path: Path) -> list[Entry]:
    """Reads the `joints.mat` of the published set: `joints` (14, 3, N), x, y and visibility.

    Column n is `im<n>.jpg` with five digits, counted from 1.

    Raises:
        SegformerPlusPlusError: it is no MAT file or holds something else, or SciPy is missing.
    """
    reader = require('scipy.io', path.name)
    try:
        content = reader.loadmat(path, variable_names=['joints'])
    except Exception as error:  # the reader meets damaged files with all kinds of errors
        raise SegformerPlusPlusError(f'{path} cannot be read: {reason(error)}') from error
    joints = content.get('joints')
    shape = getattr(joints, 'shape', None)
    if shape is None or len(shape) != 3 or shape[:2] != (14, 3) or joints.dtype.kind not in 'fiu':
        found = 'missing' if shape is None else f'{joints.dtype} of shape {shape}'
        raise SegformerPlusPlusError(
            f"{path}: 'joints' is {found}, expected are numbers of shape (14, 3, images), as Leeds "
            'Sports Pose Extended has them'
        )
    entries = []
    for number, (x, y, visible) in enumerate(joints.transpose(2, 1, 0).astype(float), 1):
        points = np.stack([x, y], axis=1)
        split = SPLITS[number % VAL_EVERY == 0]
        entries.append(Entry(f'im{number:05}.jpg', split, points, visible > 0))
    return entries


def read_json(path: Path) -> list[Entry]:
    """Reads a `joints.json`: `joint_names` and `images` with file, split, size and 14 joints.

    Raises:
        SegformerPlusPlusError: the file is no JSON or holds something else, which is named.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise SegformerPlusPlusError(f'{path} cannot be read: {reason(error)}') from error
    names, images = (
        content.get(key) if isinstance(content, dict) else None for key in ('joint_names', 'images')
    )
    if not isinstance(names, list) or sorted(map(str, names)) != sorted(LSP.names):
        raise SegformerPlusPlusError(
            f'{path}: joint_names are {names!r}, expected are, in any order, {list(LSP.names)}'
        )
    if not isinstance(images, list):
        raise SegformerPlusPlusError(f'{path}: images is no list of images')
    order = [names.index(name) for name in LSP.names]
    entries = [_entry(path, number, image, order) for number, image in enumerate(images)]
    twice = [file for file, n in Counter(entry.file for entry in entries).items() if n > 1]
    if twice:
        raise SegformerPlusPlusError(f'{path} lists {twice[0]} more than once: remove the others')
    return entries


def _entry(path: Path, number: int, image: Any, order: Sequence[int]) -> Entry:
    try:
        file, split, size = image['file'], image['split'], (image['width'], image['height'])
        joints = np.array(image['joints'], dtype=float)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise SegformerPlusPlusError(
            f'{path}, images[{number}]: {type(error).__name__}: {reason(error)}; expected are '
            'file, split, width, height and joints'
        ) from error
    fault = None
    if not isinstance(file, str) or not _FILE.fullmatch(file):
        fault = f'file {file!r} is not the name of a file in letters, digits, _, - and .'
    elif split not in SPLITS:
        fault = f'split {split!r} is none of {SPLITS}'
    elif not all(type(side) is int and side > 0 for side in size):
        fault = f'width and height are {size}, expected are whole numbers above 0'
    elif joints.shape != (len(order), 3):
        fault = f'joints of shape {joints.shape}, expected is {(len(order), 3)}: x, y, annotated'
    if fault:
        raise SegformerPlusPlusError(f'{path}, images[{number}]: {fault}')
    joints = joints[order]
    return Entry(file, split, joints[:, :2], joints[:, 2] > 0, size)


def convert(
    raw_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    copy: bool = False,
    progress: bool = True,
) -> dict[str, Split]:
    """Writes `annotations/{train,val}.json` and `images/{train,val}/*.jpg`, the former last.

    Args:
        raw_dir: holds `joints.mat` or `joints.json` and the folder `images`; only read.
        out_dir: folder to fill; made if it is missing.
        copy: whether to copy the images instead of linking them.
        progress: whether to show progress bars.

    Returns:
        What became of each of `SPLITS`. An image that cannot be used is left out and counted.

    Raises:
        SegformerPlusPlusError: for a folder or annotation file that is missing or wrong, a split
            without people, or a file that cannot be written.
    """
    # links hold this path
    raw, out = Path(os.path.realpath(raw_dir)), Path(out_dir)
    images = raw / 'images'
    if not images.is_dir():
        raise SegformerPlusPlusError(f'{images}: no such folder, correct RAW_DIR')
    check_out(out, (raw, images))
    if images in Path(os.path.realpath(out)).parents:
        raise SegformerPlusPlusError(f'{out}: lies among the images, name another --out')
    entries = _read(raw)
    splits = {split: Split() for split in SPLITS}
    for number, entry in enumerate(track(entries, 'Checking', disable=not progress), 1):
        split = splits[entry.split]
        person = _check(images / entry.file, entry, number, split)
        if person is not None:
            split.people.append(person)
            split.counts['people'] += 1
            split.counts['keypoints'] += count(person.points)
    for name, split in splits.items():
        if not split.people:
            why = '; '.join(split.remarks())
            why = f' ({why})' if why else ': it has none'
            raise SegformerPlusPlusError(f'{raw}: no image of {name} can be used{why}')
    for name, split in splits.items():
        for person in track(split.people, f'Writing {name}', disable=not progress):
            write_frame(images / person.file, out / 'images' / name / person.file, copy)
    for name, split in splits.items():
        write_json(out / 'annotations' / f'{name}.json', coco_file(LSP, split.people))
    return splits


def _read(raw: Path) -> list[Entry]:
    readers = {'joints.mat': read_mat, 'joints.json': read_json}
    found = [name for name in readers if (raw / name).is_file()]
    if len(found) != 1:
        what = 'holds both' if found else 'holds neither'
        raise SegformerPlusPlusError(
            f'{raw} {what} joints.mat (the published one) and joints.json: one is needed'
        )
    return readers[found[0]](raw / found[0])


def _check(path: Path, entry: Entry, number: int, split: Split) -> Person | None:
    """Returns what becomes of an entry; None if it is left out."""
    split.note('images', entry.file)
    try:
        with open_image(path) as image:
            image.load()
            size, turned = image.size, exif_orientation(image) > 1
    except FileNotFoundError:
        split.note('missing', entry.file)
        return None
    except Exception as error:  # noqa: BLE001 - a decoder has all kinds for damaged data
        split.note('unreadable', f'{entry.file} ({reason(error)})')
        return None
    if turned:
        split.note('turned', entry.file)
        return None
    if entry.size not in (None, size):
        sizes = '{} x {}, joints for {} x {}'.format(*size, *entry.size)
        split.note('size', f'{entry.file} ({sizes})')
        return None
    points = tuple(_points(entry, size, split))
    box = box_around([point for point in points if point], size)
    if box is None:
        split.note('too_few', entry.file)
        return None
    return Person(entry.file, size, points, box, number)


def _points(entry: Entry, size: tuple[int, int], split: Split) -> Iterator[Point | None]:
    for name, (x, y), annotated in zip(LSP.names, entry.points, entry.annotated, strict=True):
        inside = math.isfinite(x + y) and 0 <= x < size[0] and 0 <= y < size[1]
        if annotated and not inside:
            split.note('outside', f'{entry.file} ({name} at x={x:g}, y={y:g})')
        yield (float(x), float(y), 2) if annotated and inside else None


@command
def main(raw_dir: str, /, *, out: str, frames_as: Literal['link', 'copy'] = 'link') -> None:
    """Converts Leeds Sports Pose Extended (Johnson and Everingham 2011) to COCO keypoint style.

    Args:
        raw_dir: holds images/ and joints.mat, as published, or joints.json, which has splits.
        out: folder to fill; it is made if it is missing.
        frames_as: symbolic links to the raw images, which then must stay where they are, or copies.
    """
    splits = convert(raw_dir, out, copy=frames_as == 'copy')
    table = Table('', title='Leeds Sports Pose Extended', title_justify='left')
    for name in splits:
        table.add_column(name, justify='right')
    for what, title in COUNTS.items():
        table.add_row(title, *(str(split.counts[what]) for split in splits.values()))
    console = Console()
    console.print(table)
    for name, split in splits.items():
        for remark in split.remarks():
            console.print(f'{name}: {remark}', markup=False, highlight=False, soft_wrap=True)
    console.print(f'Converted to {out}', markup=False, highlight=False, soft_wrap=True)


if __name__ == '__main__':
    sys.exit(main(prog='python tools/dataset_converters/lsp.py'))
