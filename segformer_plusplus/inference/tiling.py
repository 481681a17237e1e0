"""Labels of an image that is too large for one forward pass: tiles, joined along their middles."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import SegformerPlusPlusError

OVERLAP = 128
Predict = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True)
class Tiles:
    """How an image is cut.

    Attributes:
        height: of a tile.
        width: of it.
        overlap: of neighbours, in pixels.
    """

    height: int
    width: int
    overlap: int

    @classmethod
    def of(cls, tile: int | tuple[int, int], overlap: int | None = None) -> Tiles:
        """Checked; by default the overlap is 128 pixels, or a quarter of a smaller tile's side.

        Raises:
            SegformerPlusPlusError: sides or overlap that are no whole numbers, or an overlap as
                large as a side.
        """
        sides = (tile, tile) if isinstance(tile, int) else tuple(tile)
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise SegformerPlusPlusError(
                f'tile is {tile!r}; give a height and a width above 0, or one number for both'
            )
        if overlap is None:
            overlap = min(OVERLAP, min(sides) // 4)
        if not isinstance(overlap, int) or not 0 <= overlap < min(sides):
            raise SegformerPlusPlusError(
                f'overlap is {overlap!r}; give 0 or more, and less than the sides of the tile '
                f'{sides}'
            )
        return cls(*sides, overlap)


def predict_tiles(
    image: np.ndarray,
    tiles: Tiles,
    predict: Predict,
    batch_size: int,
    dtype: Any,
    progress: bool = False,
) -> np.ndarray:
    """Predict an image in tiles.

    All tiles have one size (that of the image where it is smaller): the last of a row or column is
    moved inwards. Every pixel gets the label of the tile in whose inner part it lies, which begins
    in the middle of the overlap with the tile before.

    Args:
        image: (H, W, 3).
        tiles: how it is cut.
        predict: tiles (h, w, 3), no more than ``batch_size`` of one size -> labels (h, w) each.
        batch_size: of one call.
        dtype: of the result, see :func:`~.labels.label_dtype`.
        progress: show a bar.

    Returns:
        Labels (H, W).
    """
    height, width = image.shape[:2]
    labels = np.empty((height, width), dtype=dtype)
    rows, columns = (
        _spans(height, tiles.height, tiles.overlap),
        _spans(width, tiles.width, tiles.overlap),
    )
    places = itertools.product(rows, columns)
    total = len(rows) * len(columns)
    with tqdm(total=total, unit='tile', leave=False, disable=not progress) as bar:
        while batch := list(itertools.islice(places, batch_size)):
            parts = [image[row.outer, column.outer] for row, column in batch]
            for (row, column), part in zip(batch, predict(parts), strict=True):
                labels[row.inner, column.inner] = part[row.crop, column.crop]
            bar.update(len(batch))
    return labels


@dataclass(frozen=True)
class _Span:
    """Of one axis: what a tile covers, what it decides, and where that is in the tile."""

    outer: slice
    inner: slice

    @property
    def crop(self) -> slice:
        return slice(self.inner.start - self.outer.start, self.inner.stop - self.outer.start)


def _spans(length: int, side: int, overlap: int) -> list[_Span]:
    starts = list(_starts(length, min(side, length), overlap))
    ends = [start + min(side, length) for start in starts]
    seams = [(end + start + 1) // 2 for end, start in zip(ends[:-1], starts[1:], strict=True)]
    bounds = itertools.pairwise([0, *seams, length])
    return [
        _Span(slice(start, end), slice(*bound))
        for start, end, bound in zip(starts, ends, bounds, strict=True)
    ]


def _starts(length: int, side: int, overlap: int) -> Iterator[int]:
    start = 0
    while start + side < length:
        yield start
        start += side - overlap
    yield length - side
