"""Writes COCO keypoint files of one person an image, and the frames beside them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.files import written_beside
from segformer_plusplus.pose.keypoints import KeypointSet

_MARGIN = 0.1

Point = tuple[float, float, int]
"""x and y in pixels, and COCO's visibility: 1 (hidden) or 2 (visible)."""

Sides = tuple[float, float, float, float]
"""A box: x, y, width, height in pixels."""


@dataclass(frozen=True)
class Person:
    """Holds the person of an image.

    Attributes:
        file: the image, from the folder of images.
        size: its width and height.
        points: in the order of the keypoints, None where not annotated.
        box: around the person.
        number: id of image and person.
    """

    file: str
    size: tuple[int, int]
    points: tuple[Point | None, ...]
    box: Sides
    number: int


def coco_file(keypoints: KeypointSet, people: Iterable[Person]) -> dict[str, Any]:
    """Returns the content of a COCO keypoint file."""
    images, annotations = [], []
    for person in people:
        number, (width, height) = person.number, person.size
        images.append({'id': number, 'file_name': person.file, 'width': width, 'height': height})
        annotations.append(
            {
                'id': number,
                'image_id': number,
                'category_id': 1,
                'keypoints': [value for point in person.points for value in point or (0, 0, 0)],
                'num_keypoints': count(person.points),
                'bbox': list(person.box),
                'area': person.box[2] * person.box[3],
                'iscrowd': 0,
            }
        )
    return {'images': images, 'annotations': annotations, 'categories': [keypoints.category()]}


def count(points: Sequence[Point | None]) -> int:
    """Returns how many keypoints are annotated."""
    return sum(point is not None for point in points)


def box_around(points: Sequence[Point], size: tuple[int, int]) -> Sides | None:
    """Returns the box of points, a tenth of its larger side wider, clipped; None without area."""
    if not points:
        return None
    spans = [(min(values), max(values)) for values in list(zip(*points, strict=True))[:2]]
    margin = _MARGIN * max(high - low for low, high in spans)
    (left, right), (top, bottom) = (
        (max(0.0, low - margin), min(float(limit), high + margin))
        for (low, high), limit in zip(spans, size, strict=True)
    )
    return (left, top, right - left, bottom - top) if left < right and top < bottom else None


def check_out(out: Path, raw: Iterable[Path]) -> None:
    """Checks that a folder to fill is one, or can be made, and is none of those of raw data.

    Raises:
        SegformerPlusPlusError: the folder cannot be made, or it holds raw data.
    """
    if os.path.realpath(out) in map(os.path.realpath, raw):
        raise SegformerPlusPlusError(f'{out}: holds the raw data, name another folder with --out')
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise SegformerPlusPlusError(f'{existing}: is not a folder, name another one with --out')


def write_frame(source: Path, target: Path, copy: bool) -> None:
    """Makes `target` a link to `source`, or a copy, unless it is one.

    A file or link at the place is replaced, never written to.

    Raises:
        SegformerPlusPlusError: The file cannot be written, or the file system refuses links.
    """
    with _naming(target):
        if _is_written(source, target, copy):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(target) as place:
            if copy:
                place.write_bytes(source.read_bytes())
            else:
                _link(source, place, target)


def _is_written(source: Path, target: Path, copy: bool) -> bool:
    if target.is_symlink():
        return not copy and target.readlink() == source
    if not target.exists():
        return False
    # The raw frame may be a link to this very file: replacing it would lose the frame.
    return target.samefile(source) or (copy and target.read_bytes() == source.read_bytes())


def _link(source: Path, place: Path, target: Path) -> None:
    try:
        place.unlink()
        place.symlink_to(source)
    except OSError as error:
        raise SegformerPlusPlusError(
            f'{target}: cannot be made a link ({error.strerror}), use --frames-as copy where the '
            f'file system has no links'
        ) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a json file whole, unless it holds the same bytes."""
    data = (json.dumps(content, allow_nan=False) + '\n').encode()
    with _naming(path):
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_beside(path) as place:
                place.write_bytes(data)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns what goes wrong while a file is written into one line that names it."""
    try:
        yield
    except OSError as error:
        raise SegformerPlusPlusError(
            f'{path}: cannot be written ({error.strerror}), remove what is in the way or make room'
        ) from error
