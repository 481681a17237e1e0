"""Predicts images too large for one forward pass in tiles, joined along their middles."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import SegformerPlusPlusError

OVERLAP = 128
Predict = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True)
class Tiles:
    """Says how an image is cut.

    Attributes:
        height: height of a tile.
        width: width of a tile.
        overlap: overlap of neighbours, in pixels.
    """

    height: int
    width: int
    overlap: int

    @classmethod
    def of(cls, tile: int | tuple[int, int], overlap: int | None = None) -> Tiles:
        """Checks sides and overlap; by default it is 128 pixels, or a quarter of a smaller side.

        Raises:
            SegformerPlusPlusError: sides or overlap that are no whole numbers, or an overlap as
                large as a side.
        """
        sides = tuple(tile) if isinstance(tile, tuple | list) else (tile, tile)
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
    """Predicts an image in tiles.

    All tiles have one size (the image's where it is smaller): the last of a row or column moves
    inwards. A pixel in an overlap gets its label from the tile on its side of the middle.

    Args:
        image: (H, W, 3).
        tiles: how to cut the image.
        predict: turns a list of tiles (h, w, 3) of one size into labels (h, w) each.
        batch_size: number of tiles in one call.
        dtype: type of the labels, see ``labels.label_dtype``.
        progress: show a bar.

    Returns:
        Labels (H, W).
    """
    height, width = image.shape[:2]
    labels = np.empty((height, width), dtype=dtype)
    rows = _spans(height, tiles.height, tiles.overlap)
    columns = _spans(width, tiles.width, tiles.overlap)
    places = list(itertools.product(rows, columns))
    with tqdm(total=len(places), unit='tile', leave=False, disable=not progress) as bar:
        for start in range(0, len(places), batch_size):
            batch = places[start : start + batch_size]
            parts = [image[row.outer, column.outer] for row, column in batch]
            for (row, column), part in zip(batch, predict(parts), strict=True):
                labels[row.inner, column.inner] = part[row.crop, column.crop]
            bar.update(len(batch))
    return labels


@dataclass(frozen=True)
class _Span:
    """Says for one axis what a tile covers, what it decides, and where that is in the tile."""

    outer: slice
    inner: slice
    crop: slice


def _spans(length: int, side: int, overlap: int) -> list[_Span]:
    side = min(side, length)
    starts = [*range(0, length - side, side - overlap or 1), length - side]
    seams = [(start + side + after + 1) // 2 for start, after in itertools.pairwise(starts)]
    bounds = itertools.pairwise([0, *seams, length])
    return [
        _Span(slice(start, start + side), slice(low, high), slice(low - start, high - start))
        for start, (low, high) in zip(starts, bounds, strict=True)
    ]
