"""Converts the raw Jump-Broadcast dataset (Ludwig et al. 2023) to COCO keypoint style."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.pose.keypoints import JBD
from tools.dataset_converters.jbd_frames import decode_frame, write_frame, write_json
from tools.dataset_converters.jbd_tables import (
    Box,
    Frame,
    Point,
    check_unique,
    read_boxes,
    read_frames,
)

SPLITS = 'train', 'val'
FRAMES_AS = 'link', 'copy'
MISSING_BOX = 'skip', 'from-keypoints'
OUTSIDE = 'error', 'drop'

_MARGIN = 0.1
_ANNOTATED = 2


@dataclass(frozen=True)
class SplitReport:
    """What became of one split's csv file.

    Attributes:
        rows: in the csv file, one for each frame.
        frames: converted; the other rows were skipped.
        keypoints: annotated in the converted frames.
        skipped_without_box: frames that `bbox.csv` does not name.
        skipped_without_keypoints: frames with a box and no annotated keypoint.
        boxes_from_keypoints: frames that `bbox.csv` does not name, converted with the box of their
            keypoints.
        skipped_with_too_few_keypoints: frames that `bbox.csv` does not name, and whose keypoints
            span no box: fewer than two of them, or all at the same place.
        keypoints_outside: their frame and so taken as not annotated, those of skipped frames
            included.
        boxes_of_no_frame: boxes in `bbox.csv` of frames in neither csv file; the same number in
            the reports of both splits.
    """

    rows: int
    frames: int
    keypoints: int
    skipped_without_box: int
    skipped_without_keypoints: int
    boxes_from_keypoints: int
    skipped_with_too_few_keypoints: int
    keypoints_outside: int
    boxes_of_no_frame: int


def convert_jbd(
    raw_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    frames_dir: str | os.PathLike[str] | None = None,
    frames_as: str = 'link',
    missing_box: str = 'skip',
    outside: str = 'error',
    progress: bool = True,
) -> dict[str, SplitReport]:
    """Writes `annotations/{train,val}_jump.json` and `images/{train,val}/<event>/<frame>.jpg`.

    Both splits are checked and all frames decoded before anything is written; the two json files
    are written last. The same call again changes no file that is right, and replaces others whole.

    Args:
        raw_dir: Holds `train.csv`, `val.csv` and `bbox.csv`; only read.
        out_dir: The folder to fill; made if it is missing.
        frames_dir: Holds the events' folders; by default `raw_dir`.
        frames_as: 'link' makes symbolic links to the raw frames, 'copy' copies them.
        missing_box: A frame that `bbox.csv` does not name is left out ('skip'), or gets the box of
            its keypoints, grown by a tenth of its larger side on every side and clipped to the
            frame ('from-keypoints').
        outside: A keypoint outside its frame is an error ('error') or not annotated ('drop').
        progress: Whether to show progress bars.

    Returns:
        A report for each of `SPLITS`.

    Raises:
        SegformerPlusPlusError: For an argument that is not allowed, a folder, file or frame that
            is missing or cannot be read, a row that is wrong (named as file:line), a split without
            frames, an `out_dir` that would mix with the raw data, or a file that cannot be written.
    """
    _check_choice('frames_as', frames_as, FRAMES_AS)
    _check_choice('missing_box', missing_box, MISSING_BOX)
    _check_choice('outside', outside, OUTSIDE)
    raw, out = Path(raw_dir), Path(out_dir)
    # Links hold this path, so it has to be the same however the folder was named.
    source = _real(Path(frames_dir or raw))
    _check_folders(raw, source, out)
    tables = {split: read_frames(raw / f'{split}.csv') for split in SPLITS}
    boxes = read_boxes(raw / 'bbox.csv')
    frames = list(itertools.chain(*tables.values()))
    check_unique(
        frames, 'a frame stands once in one of train.csv and val.csv: remove one of the two'
    )
    _check_overwriting(source, out, tables)

    strays = len(boxes.keys() - {frame.name for frame in frames})
    checker = _Checker(source, boxes, strays, missing_box, outside)
    checked = {
        split: checker.check(table, f'Checking {split}', progress)
        for split, table in tables.items()
    }
    for split, (samples, _) in checked.items():
        for sample in track(samples, f'Writing {split}', disable=not progress):
            file = sample.frame.file
            write_frame(source / file, out / 'images' / split / file, frames_as)
    first_id = 1
    for split, (samples, _) in checked.items():
        write_json(out / 'annotations' / f'{split}_jump.json', _coco(samples, first_id))
        first_id += len(samples)
    return {split: report for split, (_, report) in checked.items()}


@dataclass(frozen=True)
class _Sample:
    """A frame to convert, with its (width, height) and its box as x, y, width, height."""

    frame: Frame
    size: tuple[int, int]
    points: tuple[Point | None, ...]
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class _Checker:
    source: Path
    boxes: dict[str, Box]
    strays: int
    missing_box: str
    outside: str

    def check(
        self, frames: Sequence[Frame], title: str, progress: bool
    ) -> tuple[list[_Sample], SplitReport]:
        """Checks all frames of a split against their files and boxes; there is at least one."""
        counts: Counter[str] = Counter()
        samples = []
        for frame in track(frames, title, disable=not progress):
            sample = self._sample(frame, counts)
            if sample:
                samples.append(sample)
        if not samples:
            raise SegformerPlusPlusError(
                f'{frames[0].place.path}: no frames left of {len(frames)}, since none has '
                f'a box and keypoints; check the image_id of bbox.csv'
                + (', or use --missing-box from-keypoints' if self.missing_box == 'skip' else '')
            )
        report = SplitReport(
            rows=len(frames),
            frames=len(samples),
            keypoints=sum(_count(sample.points) for sample in samples),
            skipped_without_box=counts['skipped_without_box'],
            skipped_without_keypoints=counts['skipped_without_keypoints'],
            boxes_from_keypoints=counts['boxes_from_keypoints'],
            skipped_with_too_few_keypoints=counts['skipped_with_too_few_keypoints'],
            keypoints_outside=counts['keypoints_outside'],
            boxes_of_no_frame=self.strays,
        )
        return samples, report

    def _sample(self, frame: Frame, counts: Counter[str]) -> _Sample | None:
        size = decode_frame(self.source / frame.file, frame.place)
        points = self._points_inside(frame, size)
        counts['keypoints_outside'] += _count(frame.points) - _count(points)
        given = self.boxes.get(frame.name)
        if given:
            _check_overlap(given, size)
            if not any(points):
                counts['skipped_without_keypoints'] += 1
                return None
            return _Sample(frame, size, points, (given.x, given.y, given.width, given.height))
        if self.missing_box == 'skip':
            counts['skipped_without_box'] += 1
            return None
        box = _box_around([point for point in points if point], size)
        if box is None:
            counts['skipped_with_too_few_keypoints'] += 1
            return None
        counts['boxes_from_keypoints'] += 1
        return _Sample(frame, size, points, box)

    def _points_inside(self, frame: Frame, size: tuple[int, int]) -> tuple[Point | None, ...]:
        width, height = size
        points: list[Point | None] = []
        for name, point in zip(JBD.names, frame.points, strict=True):
            if point is None or (0 <= point[0] < width and 0 <= point[1] < height):
                points.append(point)
            elif self.outside == 'drop':
                points.append(None)
            else:
                raise frame.place.error(
                    f'keypoint {name} at x={point[0]}, y={point[1]} is outside its frame, allowed '
                    f'is x from 0 to below {width} and y from 0 to below {height}; correct it, or '
                    f'use --outside drop to take such keypoints as not annotated'
                )
        return tuple(points)


def _count(points: Sequence[Point | None]) -> int:
    return sum(point is not None for point in points)


def _check_overlap(box: Box, size: tuple[int, int]) -> None:
    # mmpose clips boxes to the centres of the outermost pixels, and drops empty ones unsaid
    overlaps = (
        min(start + side, limit - 1) > max(start, 0)
        for start, side, limit in zip((box.x, box.y), (box.width, box.height), size, strict=True)
    )
    if not all(overlaps):
        width, height = size
        raise box.place.error(
            f'the box x={box.x}, y={box.y}, width={box.width}, height={box.height} lies outside '
            f'its frame of {width} x {height}, allowed is a box that overlaps it'
        )


def _box_around(
    points: Sequence[Point], size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """The points' box grown by `_MARGIN` and clipped to the frame, None if they span none."""
    if not points:
        return None
    spans = [(min(values), max(values)) for values in zip(*points, strict=True)]
    margin = _MARGIN * max(high - low for low, high in spans)
    (left, right), (top, bottom) = (
        (max(0.0, low - margin), min(float(limit), high + margin))
        for (low, high), limit in zip(spans, size, strict=True)
    )
    return (left, top, right - left, bottom - top) if left < right and top < bottom else None


def _coco(samples: Sequence[_Sample], first_id: int) -> dict[str, Any]:
    numbered = list(enumerate(samples, first_id))
    return {
        'images': [_coco_image(sample, number) for number, sample in numbered],
        'annotations': [_coco_annotation(sample, number) for number, sample in numbered],
        'categories': [JBD.category()],
    }


def _coco_image(sample: _Sample, number: int) -> dict[str, Any]:
    width, height = sample.size
    return {'id': number, 'file_name': sample.frame.file, 'width': width, 'height': height}


def _coco_annotation(sample: _Sample, number: int) -> dict[str, Any]:
    keypoints: list[float] = []
    for point in sample.points:
        keypoints += (*point, _ANNOTATED) if point else (0, 0, 0)
    return {
        'id': number,
        'image_id': number,
        'category_id': 1,
        'keypoints': keypoints,
        'num_keypoints': _count(sample.points),
        'bbox': list(sample.box),
        'area': sample.box[2] * sample.box[3],
        'iscrowd': 0,
    }


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SegformerPlusPlusError(
            f'{name}={value!r} is not allowed: {" or ".join(map(repr, allowed))}'
        )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _check_folders(raw: Path, source: Path, out: Path) -> None:
    for folder, option in ((raw, 'RAW_DIR'), (source, '--frames')):
        if not folder.is_dir():
            raise SegformerPlusPlusError(f'{folder}: no such folder, correct {option}')
    if _real(out) in (_real(raw), source):
        raise SegformerPlusPlusError(f'{out}: holds the raw data, name another folder with --out')
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise SegformerPlusPlusError(f'{existing}: is not a folder, name another one with --out')


def _check_overwriting(source: Path, out: Path, tables: dict[str, list[Frame]]) -> None:
    """Checks that nothing is written into an event's raw folder, through links neither."""
    events = {split: {frame.event for frame in table} for split, table in tables.items()}
    raw_folders = {_real(source / event) for event in set().union(*events.values())}
    filled = [out / 'annotations']
    filled += [out / 'images' / split / event for split in SPLITS for event in events[split]]
    for folder in filled:
        real = _real(folder)
        if not raw_folders.isdisjoint((real, *real.parents)):
            raise SegformerPlusPlusError(
                f'{folder}: lies in a raw folder of frames, name another folder with --out'
            )
