"""Reads the csv files of the raw Jump-Broadcast dataset; every error names the file and line."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.pose.keypoints import JBD
from tools.dataset_converters.coco_files import Point

FRAME_COLUMNS = ('event', 'frame_num', *(f'{name}_{part}' for name in JBD.names for part in 'xys'))
BOX_COLUMNS = 'image_id', 'min_x', 'min_y', 'width', 'height'

_LARGEST = 999_999_999
_MOST_NAMED = 5
# Stricter than float(), which takes 1_000 and the digits of other scripts.
_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?', re.ASCII | re.IGNORECASE)
_EVENT = re.compile(r'[^\W_][\w.-]*')
_SEPARATORS = ';', ',', '\t', '|'


@dataclass(frozen=True)
class Place:
    """Names a line of a file; the first line is 1."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f'{self.path}:{self.line}'

    def error(self, what: str) -> SegformerPlusPlusError:
        """Returns the error to raise for what is wrong on this line."""
        return SegformerPlusPlusError(f'{self}: {what}')


@dataclass(frozen=True)
class Frame:
    """Holds a row of `train.csv` or `val.csv`.

    Attributes:
        place: Line of the row.
        event: Name of the competition and of the frame's folder.
        name: The frame's file without suffix, and its `image_id` in `bbox.csv`.
        points: in the order of `JBD.names`, None where not annotated.
    """

    place: Place
    event: str
    name: str
    points: tuple[Point | None, ...]

    @property
    def file(self) -> str:
        """Returns the frame's path below the folder of all events."""
        return f'{self.event}/{self.name}.jpg'


@dataclass(frozen=True)
class Box:
    """Holds a row of `bbox.csv`: x, y, width and height in pixels; no side is zero."""

    place: Place
    name: str
    sides: tuple[float, float, float, float]


def read_frames(path: Path) -> list[Frame]:
    """Reads `train.csv` or `val.csv`, in its order.

    Raises:
        SegformerPlusPlusError: The file cannot be read, lacks a column, has no rows, or a value is
            not allowed.
    """
    return [_frame(row) for row in _rows(path, ';', FRAME_COLUMNS, skipped=1)]


def read_boxes(path: Path) -> dict[str, Box]:
    """Reads `bbox.csv`, by the names of the frames.

    Raises:
        SegformerPlusPlusError: As for `read_frames`; or a frame has two boxes.
    """
    boxes = [_box(row) for row in _rows(path, ',', BOX_COLUMNS, skipped=0)]
    check_unique(boxes, 'a frame has one box: remove one of the two')
    return {box.name: box for box in boxes}


def check_unique(rows: Iterable[Frame | Box], rule: str) -> None:
    """Raises `SegformerPlusPlusError` with both lines and the rule if two rows name one frame."""
    seen: dict[str, Place] = {}
    for row in rows:
        if row.name in seen:
            raise row.place.error(f'{row.name} stands already on {seen[row.name]}, {rule}')
        seen[row.name] = row.place


@dataclass(frozen=True)
class _Row:
    place: Place
    cells: dict[str, str]

    def error(self, column: str, allowed: str) -> SegformerPlusPlusError:
        return self.place.error(f'{column}={self.cells[column]!r} is not allowed, {allowed}')

    def number(self, column: str) -> float:
        text = self.cells[column]
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(value):
            raise self.error(column, 'only a finite number such as 12.5')
        return value


def _frame(row: _Row) -> Frame:
    event = row.cells['event']
    if '..' in event or not _EVENT.fullmatch(event):
        raise row.error(
            'event', "only the name of a folder: letters, digits and, not in front, '_', '-', '.'"
        )
    number = row.number('frame_num')
    if not (0 <= number <= _LARGEST and number.is_integer()):
        raise row.error('frame_num', f'only a whole number from 0 to {_LARGEST}')
    points = tuple(_point(row, name) for name in JBD.names)
    return Frame(row.place, event, f'{event}_({int(number):05d})', points)


def _point(row: _Row, name: str) -> Point | None:
    visibility = row.number(f'{name}_s')
    if visibility < 0:
        raise row.error(f'{name}_s', 'only 0 (not annotated) or more')
    if not visibility:
        return None
    return row.number(f'{name}_x'), row.number(f'{name}_y'), 1 if visibility == 1 else 2


def _box(row: _Row) -> Box:
    name = row.cells['image_id']
    if not name:
        raise row.error('image_id', 'only the name of a frame such as event_(00012)')
    x, y, width, height = (row.number(column) for column in BOX_COLUMNS[1:])
    for column, side in (('width', width), ('height', height)):
        if not 0 < side <= _LARGEST:
            raise row.error(column, f'only a number above 0, up to {_LARGEST}')
    return Box(row.place, name, (x, y, width, height))


def _rows(path: Path, separator: str, columns: tuple[str, ...], skipped: int) -> Iterator[_Row]:
    """Yields the rows below the header, which is the first line after the `skipped` ones."""
    records = _records(path, separator, skipped)
    place, header = next(records, (Place(path, skipped + 1), []))
    _check_header(place, header, separator, columns)
    empty = True
    for place, cells in records:
        if not any(cells):  # a blank line, or one of separators alone
            continue
        if len(cells) != len(header):
            raise place.error(
                f'{len(cells)} fields, expected {len(header)} as in the header, '
                f'separated by {separator!r}'
            )
        yield _Row(place, dict(zip(header, cells, strict=True)))
        empty = False
    if empty:
        raise place.error('no rows below the header, expected one for each frame')


def _check_header(
    place: Place, header: list[str], separator: str, columns: tuple[str, ...]
) -> None:
    if not any(header):
        raise place.error(f'no header, expected the columns {_few(columns)}')
    missing = [column for column in columns if column not in header]
    if missing and len(header) == 1:
        found = next((repr(other) for other in _SEPARATORS if other in header[0]), 'none')
        raise place.error(f'wrong separator: found {found}, expected {separator!r}')
    if missing:
        raise place.error(
            f'missing columns: {_few(missing)}, expected the header with all columns on this line'
        )
    twice = [column for column in columns if header.count(column) > 1]
    if twice:
        raise place.error(f'columns that stand twice in the header: {_few(twice)}, expected once')


def _few(names: Iterable[str]) -> str:
    first, rest = list(names)[:_MOST_NAMED], list(names)[_MOST_NAMED:]
    return ', '.join(first) + (f' and {len(rest)} more' if rest else '')


def _records(path: Path, separator: str, skipped: int) -> Iterator[tuple[Place, list[str]]]:
    """Yields the stripped cells of every line after the `skipped` ones."""
    lines = io.StringIO(_text(path), newline='')
    for _ in range(skipped):
        lines.readline()
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    while True:
        # Taken before reading: a quoted cell may span lines, and is named by its first.
        place = Place(path, skipped + reader.line_num + 1)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise place.error(f'cannot be read ({error}), expected a line of a csv file') from error
        yield place, [cell.strip() for cell in cells]


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SegformerPlusPlusError(
            f'{path}: file not found, expected train.csv, val.csv and bbox.csv in the raw folder'
        ) from None
    except OSError as error:
        raise SegformerPlusPlusError(
            f'{path}: cannot be read ({error.strerror}), expected a csv file'
        ) from error
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        place = Place(path, data.count(b'\n', 0, error.start) + 1)
        raise place.error(f'not UTF-8 ({error.reason}), save the file as UTF-8') from error
