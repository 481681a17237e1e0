"""Names beside the points of a plot, where they cover neither points nor each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

_RADII = (7, 16, 28, 42, 58)  # of candidates, in points of 1/72 inch
_DIRECTIONS = 12
_LEADER = 10  # from this radius on, a line leads to the point
_MARKER = 5  # half a marker, in points
_FONT_SIZE = 9


@dataclass(frozen=True)
class LabelledPoint:
    """A point in the data's coordinates, and its name."""

    x: float
    y: float
    label: str


def label_points(axis: Axes, points: Sequence[LabelledPoint]) -> None:
    """Write the names; call it when all else is drawn and the limits are set.

    Each takes the place near its point that covers least, those whose points are crowded first.

    Args:
        axis: of a figure whose layout may still change.
        points: drawn already.
    """
    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # a constrained layout moves the axis
    places = [tuple(axis.transData.transform((point.x, point.y))) for point in points]
    scale = figure.dpi / 72
    markers = [_around(x, y, _MARKER * scale) for x, y in places]
    taken: list[Bbox] = []
    crowded = sorted(range(len(points)), key=lambda index: _nearest(places, index))
    for index in crowded:
        width, height = _size(axis, points[index].label)
        others = [*taken, *markers]
        candidates = [
            (_cost(box, others, axis.bbox) + 1e-3 * radius, radius, offset, box)
            for radius, offset, box in _candidates(places[index], (width, height), scale)
        ]
        _, radius, offset, box = min(candidates, key=lambda candidate: candidate[0])
        taken.append(box)
        axis.annotate(
            points[index].label,
            (points[index].x, points[index].y),
            offset,
            textcoords='offset points',
            ha='center',
            va='center',
            fontsize=_FONT_SIZE,
            arrowprops=dict(arrowstyle='-', color='0.6', lw=0.6) if radius >= _LEADER else None,
        )


def _candidates(
    place: tuple[float, float], size: tuple[float, float], scale: float
) -> Iterator[tuple[float, tuple[float, float], Bbox]]:
    """Radius, offset of the label's middle in points, and its box in pixels."""
    width, height = size
    for radius, step in itertools.product(_RADII, range(_DIRECTIONS)):
        # from the upper right on; the middle lies so far away that the box clears the radius
        angle = math.pi / 4 + 2 * math.pi * step / _DIRECTIONS
        dx = math.cos(angle) * (radius * scale + width / 2)
        dy = math.sin(angle) * (radius * scale + height / 2)
        box = Bbox.from_bounds(place[0] + dx - width / 2, place[1] + dy - height / 2, width, height)
        yield radius, (dx / scale, dy / scale), box


def _cost(box: Bbox, others: Sequence[Bbox], within: Bbox) -> float:
    """Pixels that are covered, or that lie outside."""
    inside = _overlap(box, within)
    return sum(_overlap(box, other) for other in others) + box.width * box.height - inside


def _overlap(one: Bbox, other: Bbox) -> float:
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else float(common.width * common.height)


def _around(x: float, y: float, radius: float) -> Bbox:
    return Bbox.from_bounds(x - radius, y - radius, 2 * radius, 2 * radius)


def _nearest(places: Sequence[tuple[float, float]], index: int) -> float:
    return min(
        (math.dist(places[index], other) for k, other in enumerate(places) if k != index),
        default=math.inf,
    )


def _size(axis: Axes, text: str) -> tuple[float, float]:
    """Width and height in pixels, with a little air."""
    trial = axis.text(0, 0, text, fontsize=_FONT_SIZE)
    box = trial.get_window_extent()
    trial.remove()
    return float(box.width) + 4, float(box.height) + 2
