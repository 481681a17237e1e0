"""Names the classes of a prediction in a strip beside the picture."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .labels import first_label

_FONT = 'fonts/ttf/DejaVuSans.ttf'
_LEAST_SIZE = 10  # of letters, in pixels
_LETTERS = 40  # heights of letters that the shorter side of a picture has
_ROW, _SWATCH, _MARGIN, _NAME = 1.5, 1.0, 0.6, 15.0  # in heights of letters; _NAME at most
_MOST_LETTERS = 1000  # of a name; Pillow refuses far more
_CHUNK = 256  # rows of labels that are counted at a time
_PAPER, _INK, _EDGE = (255, 255, 255), (0, 0, 0), (128, 128, 128)


class Legend:
    """Draws colour and name of every class that is in a picture, in the order of the labels.

    Letters have the height of a fortieth of the picture's shorter side, at least 10 pixels. A strip
    has room for the longest name of all classes, so that all pictures of one size have one width;
    names of more than 15 heights are cut. Where not even one row fits, the strip has no width.

    Args:
        classes: their names; of a single one, 1 is the label (``labels.first_label``).
        palette: (K, 3) uint8 RGB.
    """

    def __init__(self, classes: Sequence[str], palette: np.ndarray) -> None:
        self._names = [' '.join(str(name).split())[:_MOST_LETTERS] for name in classes]
        self._colours = [tuple(map(int, colour)) for colour in palette]
        self._widths: dict[int, int] = {}

    def width(self, height: int, width: int) -> int:
        """Returns the columns of the strip beside a picture; 0 where no row fits in its height."""
        size = _letters(height, width)
        if height < round(_ROW * size):
            return 0
        if size not in self._widths:
            texts = *self._names, f'and {len(self._names)} more'
            longest = max(_font(size).getlength(_cut(text, size)) for text in texts)
            self._widths[size] = round((3 * _MARGIN + _SWATCH) * size + longest)
        return self._widths[size]

    def draw(self, strip: np.ndarray, labels: np.ndarray, steady: bool = False) -> None:
        """Draws into the columns that are beside a picture.

        Of more classes than rows the largest are named, and the others counted.

        Args:
            strip: (H, S, 3) uint8 BGR, with the S of ``width``; is changed.
            labels: (H, W); labels beyond the palette have no name.
            steady: where there is a row for each class, every class keeps its own, as in a video.
        """
        if not strip.size:
            return
        size = _letters(*labels.shape)
        row, width = round(_ROW * size), strip.shape[1]
        rows = len(strip) // row
        first = first_label(len(self._names))
        counts = _count(labels, first + len(self._names))[first:]
        named, others = _choose(counts, rows, steady)
        strip[:] = _PAPER
        top = min(row // 2, len(strip) - min(rows, len(counts)) * row)
        for index in named:
            if counts[index]:
                entry = _entry(self._names[index], self._colours[index], width, row, size)
                strip[top : top + row] = entry
            top += row
        if others:
            text = f'and {others} more' if named else f'{others} classes'
            strip[top : top + row] = _entry(text, None, width, row, size)


def _letters(height: int, width: int) -> int:
    return max(_LEAST_SIZE, round(min(height, width) / _LETTERS))


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), _FONT)), size)


def _cut(name: str, size: int) -> str:
    """Shortens a name that is too long for a row."""
    font, room = _font(size), _NAME * size
    if font.getlength(name) <= room:
        return name
    fits = bisect_left(range(len(name)), room, key=lambda n: font.getlength(f'{name[:n]}…')) - 1
    return f'{name[: max(fits, 0)].rstrip()}…'


def _entry(
    name: str, colour: tuple[int, ...] | None, width: int, row: int, size: int
) -> np.ndarray:
    """Draws one row (row, width, 3) BGR; rows by themselves take little memory of a large strip."""
    image = Image.new('RGB', (width, row), _PAPER)
    pen = ImageDraw.Draw(image)
    left, side = round(_MARGIN * size), round(_SWATCH * size)
    if colour is not None:
        top = (row - side) // 2
        pen.rectangle((left, top, left + side - 1, top + side - 1), colour, _EDGE)
    at = left + side + left, row / 2
    pen.text(at, _cut(name, size), _INK, _font(size), anchor='lm')
    return np.asarray(image)[..., ::-1]


def _choose(counts: np.ndarray, rows: int, steady: bool) -> tuple[list[int], int]:
    """Returns the indices of the classes that get a row, and how many others there are."""
    if steady and len(counts) <= rows:
        return list(range(len(counts))), 0
    found = np.flatnonzero(counts)
    if len(found) <= rows:
        return found.tolist(), 0
    largest = np.argsort(-counts, kind='stable')[: rows - 1]
    return sorted(largest.tolist()), len(found) - len(largest)


def _count(labels: np.ndarray, amount: int) -> np.ndarray:
    """Counts the pixels of the labels below an amount."""
    counts = np.zeros(amount + 1, dtype=np.int64)
    for start in range(0, len(labels), _CHUNK):
        part = np.minimum(labels[start : start + _CHUNK], amount, dtype=np.int64)
        counts += np.bincount(part.ravel(), minlength=amount + 1)
    return counts[:amount]
