"""Converts the raw Jump-Broadcast dataset (Ludwig et al. 2023) to COCO keypoint style."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import ImageOps
from rich.progress import track

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.loading.images import open_image
from segformer_plusplus.pose.keypoints import JBD
from tools.dataset_converters.coco_files import (
    Person,
    Point,
    Sides,
    box_around,
    check_out,
    coco_file,
    count,
    write_frame,
    write_json,
)
from tools.dataset_converters.jbd_tables import Box, Frame, check_unique, read_boxes, read_frames
from tools.dataset_files import reason

SPLITS = 'train', 'val'


@dataclass(frozen=True)
class Sample:
    """Holds a frame to convert, with its (width, height) and its box as x, y, width, height."""

    frame: Frame
    size: tuple[int, int]
    points: tuple[Point | None, ...]
    box: Sides


def convert_jbd(
    raw_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    frames_dir: str | os.PathLike[str] | None = None,
    copy: bool = False,
    boxes_from_keypoints: bool = False,
    drop_outside: bool = False,
    progress: bool = True,
) -> dict[str, Counter[str]]:
    """Writes `annotations/{train,val}_jump.json` and `images/{train,val}/<event>/<frame>.jpg`.

    Both splits are checked and all frames decoded before anything is written; the two json files
    are written last. The same call again changes no file that is right, and replaces others whole.

    Args:
        raw_dir: Folder of `train.csv`, `val.csv` and `bbox.csv`; only read.
        out_dir: Folder to fill; made if it is missing.
        frames_dir: Folder of the events' folders; by default `raw_dir`.
        copy: Whether to copy the raw frames instead of linking them.
        boxes_from_keypoints: Whether a frame that `bbox.csv` does not name gets the box of its
            keypoints, grown by a tenth of its larger side on every side and clipped to the frame;
            otherwise it is left out.
        drop_outside: Whether a keypoint outside its frame is not annotated; otherwise it is an
            error.
        progress: Whether to show progress bars.

    Returns:
        For each of `SPLITS` the counts that `tools/dataset_converters/jbd.py` prints.

    Raises:
        SegformerPlusPlusError: For a folder, file or frame that is missing or cannot be read, a row
            that is wrong (named as file:line), a split without frames, an `out_dir` that would mix
            with the raw data, or a file that cannot be written.
    """
    raw, out = Path(raw_dir), Path(out_dir)
    # Links hold this path, so it has to be the same however the folder was named.
    source = _real(Path(frames_dir or raw))
    _check_folders(raw, source, out)
    tables = {split: read_frames(raw / f'{split}.csv') for split in SPLITS}
    boxes = read_boxes(raw / 'bbox.csv')
    frames = [frame for table in tables.values() for frame in table]
    rule = 'a frame stands once in one of train.csv and val.csv: remove one of the two'
    check_unique(frames, rule)
    _check_overwriting(source, out, tables)

    checked: dict[str, list[Sample]] = {}
    counts: dict[str, Counter[str]] = {}
    for split, table in tables.items():
        check = _Check(source, boxes, boxes_from_keypoints, drop_outside)
        rows = track(table, f'Checking {split}', disable=not progress)
        samples = [sample for sample in map(check.sample, rows) if sample]
        if not samples:
            raise SegformerPlusPlusError(
                f'{table[0].place.path}: no frames left of {len(table)}, since none has '
                f'a box and keypoints; check the image_id of bbox.csv'
                + ('' if boxes_from_keypoints else ', or use --missing-box from-keypoints')
            )
        checked[split], counts[split] = samples, check.counts
        check.counts['rows'], check.counts['frames'] = len(table), len(samples)
        check.counts['keypoints'] = sum(count(sample.points) for sample in samples)
        strays = boxes.keys() - {frame.name for frame in frames}
        check.counts['boxes_of_no_frame'] = len(strays)

    for split, samples in checked.items():
        for sample in track(samples, f'Writing {split}', disable=not progress):
            file = sample.frame.file
            write_frame(source / file, out / 'images' / split / file, copy)
    first_id = 1
    for split, samples in checked.items():
        write_json(out / 'annotations' / f'{split}_jump.json', _coco(samples, first_id))
        first_id += len(samples)
    return counts


@dataclass(frozen=True)
class _Check:
    """Checks the frames of a split against their files and boxes, and counts what it meets."""

    source: Path
    boxes: Mapping[str, Box]
    boxes_from_keypoints: bool
    drop_outside: bool
    counts: Counter[str] = field(default_factory=Counter)

    def sample(self, frame: Frame) -> Sample | None:
        """Returns what becomes of a row; None if it is skipped."""
        size = decode_frame(self.source / frame.file, frame)
        points = self._points_inside(frame, size)
        self.counts['keypoints_outside'] += count(frame.points) - count(points)
        given = self.boxes.get(frame.name)
        if given:
            _check_overlap(given, size)
            box = given.sides if any(points) else None
            skipped = 'skipped_without_keypoints'
        elif self.boxes_from_keypoints:
            box = box_around([point for point in points if point], size)
            self.counts['boxes_from_keypoints'] += box is not None
            skipped = 'skipped_with_too_few_keypoints'
        else:
            box, skipped = None, 'skipped_without_box'
        self.counts[skipped] += box is None
        return Sample(frame, size, points, box) if box else None

    def _points_inside(self, frame: Frame, size: tuple[int, int]) -> tuple[Point | None, ...]:
        width, height = size
        points: list[Point | None] = []
        for name, point in zip(JBD.names, frame.points, strict=True):
            if point is None or (0 <= point[0] < width and 0 <= point[1] < height):
                points.append(point)
            elif self.drop_outside:
                points.append(None)
            else:
                raise frame.place.error(
                    f'keypoint {name} at x={point[0]}, y={point[1]} is outside its frame, allowed '
                    f'is x from 0 to below {width} and y from 0 to below {height}; correct it, or '
                    f'use --outside drop to take such keypoints as not annotated'
                )
        return tuple(points)


def decode_frame(path: Path, frame: Frame) -> tuple[int, int]:
    """Decodes a frame completely; returns its width and height as training loads it (EXIF).

    Raises:
        SegformerPlusPlusError: The file is missing, is no image, or ends too early.
    """
    try:
        with open_image(path) as image:
            return ImageOps.exif_transpose(image).size
    except FileNotFoundError:
        raise frame.place.error(
            f'frame {path} is missing, add it, remove the row, or name the folder of the events '
            f'with --frames'
        ) from None
    except Exception as error:  # a decoder meets damaged data with all kinds of errors
        why = getattr(error, 'strerror', None) or reason(error)
        what = why.removeprefix('it ') if why.startswith('it is ') else f'cannot be decoded ({why})'
        raise frame.place.error(f'frame {path} {what}, replace it or remove the row') from error


def _check_overlap(box: Box, size: tuple[int, int]) -> None:
    (x, y, width, height), (columns, rows) = box.sides, size
    # mmpose clips boxes to the centres of the outermost pixels, and drops empty ones unsaid
    across = min(x + width, columns - 1) > max(x, 0)
    if not (across and min(y + height, rows - 1) > max(y, 0)):
        raise box.place.error(
            f'the box x={x}, y={y}, width={width}, height={height} lies outside '
            f'its frame of {columns} x {rows}, allowed is a box that overlaps it'
        )


def _coco(samples: Sequence[Sample], first_id: int) -> dict[str, Any]:
    return coco_file(
        JBD,
        (
            Person(sample.frame.file, sample.size, sample.points, sample.box, number)
            for number, sample in enumerate(samples, first_id)
        ),
    )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _check_folders(raw: Path, source: Path, out: Path) -> None:
    for folder, option in ((raw, 'RAW_DIR'), (source, '--frames')):
        if not folder.is_dir():
            raise SegformerPlusPlusError(f'{folder}: no such folder, correct {option}')
    check_out(out, (raw, source))


def _check_overwriting(source: Path, out: Path, tables: Mapping[str, list[Frame]]) -> None:
    """Checks that nothing is written into an event's raw folder, nor through links."""
    places = {(split, frame.event) for split, table in tables.items() for frame in table}
    raw_folders = {_real(source / event) for _, event in places}
    filled = [out / 'annotations', *(out / 'images' / split / event for split, event in places)]
    for folder in filled:
        real = _real(folder)
        if not raw_folders.isdisjoint((real, *real.parents)):
            raise SegformerPlusPlusError(
                f'{folder}: lies in a raw folder of frames, name another folder with --out'
            )
