"""Reads the images that visitors give: by the rule of the model, never too large, and safely."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from PIL import Image

from ..errors import SegformerPlusPlusError
from ..inference.merge_maps import turned
from ..inference.reader import Reader
from ..loading.images import check_whole, open_image, reading

# several large images at once could need more memory than there is
_ONE_AT_A_TIME = Lock()


@dataclass(frozen=True)
class Photograph:
    """Holds an image and what was done to it.

    Attributes:
        image: (H, W, 3) uint8 RGB, unless the model's config reads other ones.
        notes: what is not as in the file, a sentence each.
    """

    image: np.ndarray
    notes: tuple[str, ...]


def read_photograph(reader: Reader, path: Path, name: str, max_pixels: int) -> Photograph:
    """Reads an image and scales it down to a number of pixels.

    Raises:
        SegformerPlusPlusError: no image, a damaged one, or one with more pixels than Pillow takes.
    """
    with _ONE_AT_A_TIME:
        reader.dropped.clear()
        try:
            with reading('image', name), _open(path, name) as opened:
                size = opened.size
                large = size[0] * size[1] > max_pixels
                pixels = _large(reader, opened, path, name, max_pixels) if large else None
            pixels = reader.file(path) if pixels is None else pixels
        except SegformerPlusPlusError as error:  # by the name that the visitor knows
            raise SegformerPlusPlusError(str(error).replace(str(path), name)) from error
        notes = sorted(reader.dropped)
    if large:
        pixels = _scaled(pixels, max_pixels)
        height, width = pixels.shape[:2]
        before = size if (size[0] > size[1]) == (width > height) else size[::-1]
        notes.append(
            f'scaled down from {before[0]} x {before[1]} to {width} x {height} pixels; '
            f'--max-pixels {size[0] * size[1]} takes it whole'
        )
    return Photograph(np.ascontiguousarray(turned(pixels)), tuple(notes))


def _open(path: Path, name: str) -> Image.Image:
    try:
        return open_image(path)
    except Image.DecompressionBombError as error:
        raise SegformerPlusPlusError(
            f'image {name} has too many pixels to be decoded ({error}): make it smaller'
        ) from error


def _large(
    reader: Reader, opened: Image.Image, path: Path, name: str, max_pixels: int
) -> np.ndarray:
    """Decodes a JPEG at the smallest size that suffices; of any other, there is only the whole."""
    width, height = opened.size
    factor = (max_pixels / (width * height)) ** 0.5
    if reader.loading is not None and opened.format in ('JPEG', 'MPO'):
        opened.draft(opened.mode, (int(width * factor), int(height * factor)))
        return reader.picture(opened, name)
    check_whole(path.read_bytes())
    return reader.file(path, any_size=True)


def _scaled(pixels: np.ndarray, max_pixels: int) -> np.ndarray:
    """Averages pixels until there are so many at most; no side gets shorter than one."""
    height, width = pixels.shape[:2]
    factor = min(1.0, (max_pixels / (width * height)) ** 0.5)
    size = max(1, int(width * factor)), max(1, int(height * factor))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
