"""Accuracy over speed-up, with a line through the strategies that no other one beats in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import SegformerPlusPlusError
from ..files import written_beside
from ..reporting.benchmark_plot import check_plot_path
from ..reporting.point_labels import LabelledPoint, label_points
from .base import MEASURES, Measure
from .report import FidelityReport

Points = Mapping[str, tuple[float, float]]
"""Speed-up and value by strategy."""


def draw_fidelity(path: str | Path, report: FidelityReport, title: str = '') -> None:
    """Draw a panel for every measure: accuracy, and what changes against no merging.

    Args:
        path: of the picture, written beside and renamed; its suffix says which kind.
        report: its rows without time or values are left out.
        title: above all panels.

    Raises:
        SegformerPlusPlusError: an unknown suffix, or no row has both.
    """
    check_plot_path(path)
    panels = {name: _points(report, name) for name in report.measures}
    panels = {name: points for name, points in panels.items() if points}
    if not panels:
        raise SegformerPlusPlusError(f'{path}: no strategy was both timed and tested')
    palette = colormaps['tab10']
    colours = {row.strategy: palette(k % palette.N) for k, row in enumerate(report.rows)}
    figure = Figure(figsize=(7.5, 4.2 * len(panels) + 0.4), layout='constrained')
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (name, points) in zip(axes, panels.items(), strict=True):
        _draw(axis, MEASURES[name], points, colours)
    for axis, points in zip(axes, panels.values(), strict=True):
        label_points(axis, [LabelledPoint(x, y, name) for name, (x, y) in points.items()])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as place:
        figure.savefig(place, format=path.suffix.lstrip('.').lower(), dpi=figure.dpi)


def find_front(points: Points, higher_is_better: bool) -> list[str]:
    """The strategies that no other one beats in both, from slow to fast.

    Args:
        points: of all.
        higher_is_better: of the values; speed-ups always are.
    """
    sign = 1 if higher_is_better else -1
    # of two equally fast ones the better comes first
    order = sorted(points, key=lambda name: (-points[name][0], -sign * points[name][1]))
    front: list[str] = []
    for name in order:
        if not front or sign * points[name][1] > sign * points[front[-1]][1]:
            front.append(name)
    return front[::-1]


def _points(report: FidelityReport, measure: str) -> dict[str, tuple[float, float]]:
    return {
        row.strategy: (row.speed_up, row.values[measure])
        for row in report.rows
        if row.speed_up is not None and measure in row.values
    }


def _draw(axis: Axes, measure: Measure, points: Points, colours: Mapping[str, Any]) -> None:
    front = find_front(points, measure.higher_is_better)
    axis.plot(
        *zip(*(points[name] for name in front), strict=True),
        color='0.75',
        linewidth=1.5,
        zorder=1,
        label='no other is faster and better',
    )
    _scatter(axis, points, front, colours)
    if not measure.higher_is_better:
        # from hardly anything to nearly everything: by its order of magnitude, around 0
        changes = [value for _, value in points.values() if value > 0]
        axis.set_yscale('symlog', linthresh=min(changes, default=1.0))
        axis.invert_yaxis()
    less = '' if measure.higher_is_better else ' (less is better)'
    axis.set_xlabel('speed-up')
    axis.set_ylabel(f'{measure.label} in {measure.unit}{less}')
    axis.grid(alpha=0.3)
    axis.margins(0.2)
    axis.legend(fontsize=8, loc='upper center', bbox_to_anchor=(0.5, 1.1), frameon=False)


def _scatter(axis: Axes, points: Points, front: Sequence[str], colours: Mapping[str, Any]) -> None:
    for name, (x, y) in points.items():
        face = colours[name] if name in front else 'white'
        axis.scatter([x], [y], s=55, facecolors=[face], edgecolors=[colours[name]],
                     linewidths=1.6, zorder=2)  # fmt: skip
