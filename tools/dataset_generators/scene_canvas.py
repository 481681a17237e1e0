"""Offers what a street scene is drawn with: a pinhole camera, an image and its label map.

The world is in metres: x to the right of the road's middle, y up from the ground, z ahead of the
camera. A scene is the same at every size; only its pixels become more or fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np

from tools.dataset_generators.drawing import Colour, Span, circle, fill

CLASSES = (
    *('road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign'),
    *('vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train'),
    *('motorcycle', 'bicycle'),
)
"""Cityscapes' 19 classes; a label is the index in this tuple."""

IGNORE = 255
"""The label of pixels that neither training nor evaluation counts."""

Point: TypeAlias = tuple[float, float]
Points: TypeAlias = np.ndarray | Sequence[Point]
Place: TypeAlias = tuple[float, float, float]
Paint: TypeAlias = Colour | None
Label: TypeAlias = int | None
Haze: TypeAlias = float | None

FOCAL = 0.8  # in image widths: a field of view of 64 degrees
CAMERA_HEIGHT = 1.4
HAZE_DISTANCE = 220.0  # metres at which 63 % of a colour has turned into haze


def steps(start: float, stop: float, step: float) -> list[float]:
    """Lists `start`, `start + step` and so on before `stop`; `step` may be negative."""
    return [float(value) for value in np.arange(start, stop, step)]


class Canvas:
    """Draws an image and its labels together, from back to front.

    Args:
        size: Height and width in pixels.
        vanishing: Where the road vanishes, (x, y) in parts of the width and height.
        camera_x: The camera's place across the road, in metres.
        haze: The colour that distant things fade into.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) uint8, train ids.
    """

    def __init__(
        self, size: tuple[int, int], vanishing: Point, camera_x: float, haze: Colour
    ) -> None:
        self.height, self.width = size
        self.vanishing_x = vanishing[0] * self.width
        self.horizon = vanishing[1] * self.height
        self.camera_x, self.haze = camera_x, haze
        self.image: np.ndarray = np.zeros((*size, 3), np.uint8)
        self.labels: np.ndarray = np.full(size, IGNORE, np.uint8)
        self._limit = 8 * max(size)  # keeps the fixed-point numbers in 32 bits

    def metre(self, z: float) -> Point:
        """Returns how many pixels one metre takes across and up at distance `z`."""
        return FOCAL * self.width / z, 2 * FOCAL * self.height / z

    def project(self, x: float, y: float, z: float) -> Point:
        """Turns a point of the world in metres into pixels."""
        across, up = self.metre(z)
        return (
            self.vanishing_x + (x - self.camera_x) * across,
            self.horizon + (CAMERA_HEIGHT - y) * up,
        )

    def face(
        self, x: Span, y: Span, z: float, colour: Paint, label: Label = None, haze: Haze = None
    ) -> None:
        """Fills an upright rectangle that looks at the camera, hazy as at `z` or at `haze`."""
        corners = ((x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1]))
        points = [self.project(across, up, z) for across, up in corners]
        self.polygon(points, colour, label, z if haze is None else haze)

    def plane(
        self, x: float, y: Span, z: Span, colour: Paint, label: Label = None, haze: Haze = None
    ) -> None:
        """Fills an upright rectangle that runs along the road; the rest as for `face`."""
        corners = ((y[0], z[0]), (y[0], z[1]), (y[1], z[1]), (y[1], z[0]))
        points = [self.project(x, up, ahead) for up, ahead in corners]
        self.polygon(points, colour, label, z[0] if haze is None else haze)

    def ground(self, x: Span, z: Span, y: float = 0.0) -> list[Point]:
        """Returns the corners of a flat rectangle at height `y`."""
        corners = ((x[0], z[0]), (x[1], z[0]), (x[1], z[1]), (x[0], z[1]))
        return [self.project(across, y, ahead) for across, ahead in corners]

    def floor(
        self, x: Span, z: Span, colour: Paint, label: Label = None, haze: Haze = None, y: float = 0
    ) -> None:
        """Fills a flat rectangle at height `y`; the rest as for `face`."""
        self.polygon(self.ground(x, z, y), colour, label, z[0] if haze is None else haze)

    def edge(
        self, start: Place, end: Place, width: float, colour: Colour, haze: float = 0.0
    ) -> None:
        """Draws a line between two points of the world, `width` pixels wide and at least one."""
        self.line(self.project(*start), self.project(*end), width, colour, None, haze)

    def shade(self, colour: Colour, z: float) -> Colour:
        """Returns the colour as it looks through `z` metres of haze."""
        clear = float(np.exp(-z / HAZE_DISTANCE))
        pairs = zip(colour, self.haze, strict=True)
        red, green, blue = (near * clear + far * (1 - clear) for near, far in pairs)
        return red, green, blue

    def polygon(self, points: Points, colour: Paint, label: Label = None, z: float = 0.0) -> None:
        """Fills a polygon; without a colour only its label, without a label only its colour.

        Args:
            points: (N, 2) corners in pixels.
            colour: RGB, 0 to 255, before haze.
            label: Train id.
            z: Distance in metres, for the haze.
        """
        limit = self._limit
        inside = np.clip(np.asarray(points, np.float64), 0.5 - limit, 0.5 + limit)
        if colour is not None:
            fill(self.image, inside, self.shade(colour, z))
        if label is not None:
            fill(self.labels, inside, (label,), cv2.LINE_8)

    def ellipse(
        self,
        centre: Point,
        radii: Point,
        colour: Paint,
        label: Label = None,
        z: float = 0.0,
        corners: int = 16,
    ) -> None:
        """Fills an ellipse; centre and radii in pixels, the rest as for `polygon`."""
        self.polygon(circle(corners) * radii + np.asarray(centre), colour, label, z)

    def upright(
        self, x: float, y0: float, y1: float, z: float, width: float, colour: Colour, label: int
    ) -> None:
        """Draws a thin vertical bar, `width` metres or at least one pixel wide."""
        left_exact, top = self.project(x - width / 2, y1, z)
        bottom = self.project(x, y0, z)[1]
        pixels = max(1, round(width * self.metre(z)[0]))
        left, top, bottom = round(left_exact), max(0, round(top)), max(0, round(bottom))
        box = slice(top, bottom), slice(max(0, left), max(0, left + pixels))
        columns = self.image[box].shape[1]
        light = np.linspace(1.15, 0.8, columns)[:, None] if columns > 1 else np.ones((columns, 1))
        lit = np.asarray(self.shade(colour, z)) * light
        self.image[box] = np.clip(lit, 0, 255).astype(np.uint8)
        self.labels[box] = label

    def line(
        self,
        start: Point,
        end: Point,
        width: float,
        colour: Colour,
        label: Label = None,
        z: float = 0.0,
    ) -> None:
        """Draws a line between two pixels, `width` pixels wide and at least one."""
        limit, thickness = self._limit, max(1, round(width))
        first, last = (
            (round(min(max(x, -limit), limit)), round(min(max(y, -limit), limit)))
            for x, y in (start, end)
        )
        cv2.line(self.image, first, last, self.shade(colour, z), thickness, cv2.LINE_AA)
        if label is not None:
            cv2.line(self.labels, first, last, label, thickness)


class Billboard:
    """Draws a flat thing that looks at the camera, in metres from the point where it stands.

    Args:
        canvas: Where to draw.
        x: Metres right of the road's middle.
        z: Metres ahead.
        mirror: Whether to swap left and right.
    """

    def __init__(self, canvas: Canvas, x: float, z: float, mirror: bool = False) -> None:
        self.canvas, self.x, self.z = canvas, x, z
        self.side = -1.0 if mirror else 1.0

    def at(self, u: float, v: float) -> Point:
        """Returns the pixel `u` metres to the side and `v` metres up."""
        return self.canvas.project(self.x + self.side * u, v, self.z)

    def polygon(self, points: Sequence[Point], colour: Paint, label: Label = None) -> None:
        """Fills a polygon of (u, v) corners in metres."""
        self.canvas.polygon([self.at(u, v) for u, v in points], colour, label, self.z)

    def disc(self, u: float, v: float, radii: Point, colour: Paint, label: Label = None) -> None:
        """Fills an ellipse; all in metres."""
        across, up = self.canvas.metre(self.z)
        pixels = radii[0] * across, radii[1] * up
        self.canvas.ellipse(self.at(u, v), pixels, colour, label, self.z)

    def stroke(
        self, start: Point, end: Point, width: float, colour: Colour, label: Label = None
    ) -> None:
        """Draws a line; all in metres, at least one pixel wide."""
        pixels = width * self.canvas.metre(self.z)[0]
        self.canvas.line(self.at(*start), self.at(*end), pixels, colour, label, self.z)
