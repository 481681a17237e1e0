"""Shares what both generators draw with: allowed sizes, random numbers, colours, outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from segformer_plusplus.errors import SegformerPlusPlusError

Colour: TypeAlias = tuple[float, float, float]
Colours: TypeAlias = tuple[Colour, ...]
Size: TypeAlias = tuple[int, int]
Span: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]
"""x, y, width and height in pixels."""

_SUBPIXEL_BITS = 4  # OpenCV's fixed-point coordinates


@dataclass(frozen=True)
class Drawing:
    """Describes what is drawn.

    Attributes:
        name: 'scenes' or 'jumpers'.
        version: Raised whenever the same seed and size give other bytes than before.
        smallest: Lowest allowed height and width in pixels.
        largest: Highest allowed height and width in pixels.
    """

    name: str
    version: int
    smallest: Size
    largest: Size

    def check_size(self, size: Size) -> None:
        """Raises `SegformerPlusPlusError` unless (height, width) can be drawn."""
        whole = len(size) == 2 and all(isinstance(side, int | np.integer) for side in size)
        sides = zip(self.smallest, size, self.largest, strict=True) if whole else ()
        if not whole or not all(low <= side <= high for low, side, high in sides):
            raise SegformerPlusPlusError(
                f'size={tuple(size)} cannot be drawn: height x width must be whole numbers from '
                f'{self.smallest[0]} x {self.smallest[1]} to {self.largest[0]} x {self.largest[1]}'
            )


def random_numbers(seed: int | Sequence[int]) -> np.random.Generator:
    """Returns a generator for a seed of one or more whole numbers, none below 0.

    Raises:
        SegformerPlusPlusError: For any other seed.
    """
    try:
        return np.random.default_rng(np.random.SeedSequence(seed))
    except (TypeError, ValueError):
        raise SegformerPlusPlusError(
            f'seed={seed!r} is not allowed: one or more whole numbers, none below 0'
        ) from None


def vary(rng: np.random.Generator, colour: Colour, amount: float = 12.0) -> Colour:
    """Moves the brightness and each channel of a colour by up to `amount`."""
    shift = rng.uniform(-amount, amount) + rng.uniform(-amount / 2, amount / 2, size=3)
    red, green, blue = np.clip(np.asarray(colour) + shift, 0, 255)
    return float(red), float(green), float(blue)


def pick(rng: np.random.Generator, colours: Colours, amount: float = 12.0) -> Colour:
    """Picks one of the colours and varies it."""
    return vary(rng, colours[int(rng.integers(len(colours)))], amount)


def darker(colour: Colour, factor: float) -> Colour:
    """Multiplies a colour by `factor`, which may be above 1."""
    red, green, blue = (min(255.0, channel * factor) for channel in colour)
    return red, green, blue


def circle(corners: int) -> np.ndarray:
    """Returns (N, 2) corners on the unit circle."""
    angles = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def fill(
    image: np.ndarray, points: np.ndarray, colour: Sequence[float], line: int = cv2.LINE_AA
) -> None:
    """Fills a polygon of (N, 2) pixels, or fractions of them, in place."""
    fixed = np.round((points - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(image, [fixed], colour, line, _SUBPIXEL_BITS)


def smooth_noise(rng: np.random.Generator, size: Size, cells: Size) -> np.ndarray:
    """Returns smooth noise, (H, W) float32, from (rows, columns) of independent values."""
    coarse = rng.standard_normal(cells, np.float32)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR)


def add_noise(image: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Adds (H, W) noise to all channels of (H, W, 3) uint8."""
    return cv2.add(image, cv2.merge([noise.astype(np.int16)] * 3), dtype=cv2.CV_8U)


def relight(rng: np.random.Generator, image: np.ndarray, gain: Span, gamma: Span) -> np.ndarray:
    """Changes the brightness, tint and contrast of (H, W, 3) uint8 at random."""
    gains = rng.uniform(*gain) * rng.uniform(0.96, 1.04, size=3)
    levels = np.arange(256)[:, None] / 255
    curve = np.clip(255 * gains * levels ** rng.uniform(*gamma), 0, 255)
    return cv2.LUT(image, curve.astype(np.uint8)[:, None])
