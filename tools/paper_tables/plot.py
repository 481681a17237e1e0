"""Accuracy over speed-up: ours filled, the paper's hollow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Names = tuple[str, str]


@dataclass(frozen=True)
class Point:
    """One row of a table.

    Attributes:
        row: its strategy.
        speed_up: against the first row.
        accuracy: in percent.
        ours: measured here, not the paper's.
    """

    row: str
    speed_up: float
    accuracy: float
    ours: bool


def draw_points(
    stream: IO[bytes],
    panels: Mapping[str, Sequence[Point]],
    title: str,
    names: Names,
    x_label: str,
    apart: str | None,
) -> None:
    """Draw a PNG.

    Args:
        stream: to write to.
        panels: the points by the name of their accuracy, a row of panels each.
        title: above all.
        names: of ours and of the paper's.
        x_label: says what the speed-up is that of.
        apart: why ours and the paper's get panels of their own; None if they share one.
    """
    columns = 2 if apart else 1
    figure = Figure(figsize=(1 + 5.4 * columns, 4.2 * len(panels) + 0.5), layout='constrained')
    axes = figure.subplots(len(panels), columns, squeeze=False)
    order = list(dict.fromkeys(point.row for points in panels.values() for point in points))
    palette = colormaps['tab10']
    colours = {row: palette(index % palette.N) for index, row in enumerate(order)}
    for line, (metric, points) in zip(axes, panels.items(), strict=True):
        for index, axis in enumerate(line):
            kinds = [index == 0] if apart else [True, False]
            if not apart:
                _connect(axis, points)
            for ours in kinds:
                _draw(axis, [p for p in points if p.ours is ours], colours, ours, names)
            axis.set_xlabel(x_label if kinds[0] else 'speed-up (paper)')
            axis.set_ylabel(f'{metric} in %')
            axis.grid(alpha=0.3)
            axis.margins(0.18)
            axis.legend(fontsize=8, loc='best')
    note = f'\nnot comparable: {apart}' if apart else ''
    figure.suptitle(title + note, fontsize=11)
    figure.savefig(stream, format='png', dpi=120)


def _connect(axis: Axes, points: Sequence[Point]) -> None:
    """A line from the paper's point of a row to ours."""
    for row in dict.fromkeys(point.row for point in points):
        x, y = zip(*((p.speed_up, p.accuracy) for p in points if p.row == row), strict=True)
        axis.plot(x, y, ':', color='0.6', linewidth=1, zorder=1)


def _draw(
    axis: Axes, points: Sequence[Point], colours: Mapping[str, Any], ours: bool, names: Names
) -> None:
    if not points:
        return
    x = [point.speed_up for point in points]
    y = [point.accuracy for point in points]
    marker, name = ('o', names[0]) if ours else ('D', names[1])
    edges = [colours[point.row] for point in points]
    axis.scatter(x, y, s=55, marker=marker, facecolors=edges if ours else 'white',
                 edgecolors=edges, linewidths=1.6, zorder=2)  # fmt: skip
    axis.plot([], [], marker, color='0.3', markerfacecolor='0.3' if ours else 'white', label=name)
    for point in points:
        place = (7, 6) if ours else (7, -12)
        axis.annotate(
            point.row,
            (point.speed_up, point.accuracy),
            place,
            textcoords='offset points',
            fontsize=9,
        )
