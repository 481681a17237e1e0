"""The table and the plot of what strategies cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from ...errors import SegformerPlusPlusError
from ...files import written_beside
from ..plots import LabelledPoint, check_plot_path, label_points
from ..timing import device_name
from .base import MEASURES, Measure
from .measuring import FidelityRow, Measurement

_NOTHING = '-'

Points = Mapping[str, tuple[float, float]]
"""Speed-up and value by strategy."""


@dataclass(frozen=True)
class FidelityReport:
    """Rows with what a reader needs to understand them.

    Attributes:
        rows: the first is no merging.
        main_measure: whose change is shown, a key of ``MEASURES``.
        caption: what was measured, on what.
        command: that did it.
        left_out: strategies that the model cannot run, and why.
    """

    rows: tuple[FidelityRow, ...]
    main_measure: str
    caption: str
    command: str = ''
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def measures(self) -> list[str]:
        """The keys of ``MEASURES`` that the rows have, in their order."""
        return [name for name in MEASURES if any(name in row.values for row in self.rows)]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def to_markdown(self) -> str:
        """A Markdown table with its caption and the command."""
        header = self._header()
        lines = [_join(header), _join(['---'] + ['---:'] * (len(header) - 1))]
        lines += [_join(self._cells(row)) for row in self.rows]
        command = ['', f'    {self.command}'] if self.command else []
        return '\n'.join([*lines, '', self.caption, *command, ''])

    def to_rich(self) -> Table:
        """For the terminal, without the caption; fits into 80 columns."""
        # of 80 columns, none is for air
        table = Table(pad_edge=False, collapse_padding=True)
        for index, column in enumerate(self._header()):
            if index:
                table.add_column(column, justify='right')
            else:
                table.add_column(column, overflow='fold')
        for row in self.rows:
            table.add_row(*self._cells(row))
        return table

    def _header(self) -> list[str]:
        columns = []
        for name in self.measures:
            measure = MEASURES[name]
            # accuracies are percentages everywhere; other numbers say their unit
            columns.append(
                measure.label if measure.needs_truth else f'{measure.label} {measure.unit}'
            )
            if self._has_change(name):
                columns.append('change')
        return ['strategy', *columns, 'ms', 'speed-up']

    def _cells(self, row: FidelityRow) -> list[str]:
        cells = []
        for name in self.measures:
            value, digits = row.values.get(name), MEASURES[name].digits
            cells.append(_number(value, digits))
            if self._has_change(name):
                cells.append(_change(value, self.rows[0].values[name], digits))
        seconds = row.median_seconds
        milliseconds = None if seconds is None else 1e3 * seconds
        slow = milliseconds is not None and milliseconds >= 100
        return [
            row.strategy,
            *cells,
            _number(milliseconds, 0 if slow else 1),
            _number(row.speed_up, 2),
        ]

    def _has_change(self, name: str) -> bool:
        return name == self.main_measure and MEASURES[name].higher_is_better


def report(measurement: Measurement, command: str = '') -> FidelityReport:
    """What was measured until now.

    Args:
        measurement: done, or interrupted.
        command: that did it.
    """
    fidelity = measurement.fidelity
    height, width = fidelity.shape
    rounds = max(map(len, measurement.seconds.values()), default=0)
    parts = [fidelity.describe()]
    if rounds:
        parts.append(
            f'speed: batch 1, float32, {height}x{width}, {fidelity.timed}, median of {rounds} '
            f'{"rounds" if rounds > 1 else "round"} in turn on {device_name(fidelity.device)}, '
            f'torch {torch.__version__}'
        )
    if measurement.left_out:
        parts.append('left out, as the model cannot run it: ' + ', '.join(measurement.left_out))
    if measurement.failed:
        parts.append('failed while images were predicted: ' + ', '.join(measurement.failed))
    return FidelityReport(
        rows=tuple(measurement.rows()),
        main_measure=fidelity.main_measure,
        caption='; '.join(parts) + '.',
        command=command,
        left_out=dict(measurement.left_out),
    )


def _change(value: float | None, baseline: float, digits: int) -> str:
    """Of the rounded values, so that it is what a reader computes; no -0.00."""
    if value is None:
        return _NOTHING
    change = round(value, digits) - round(baseline, digits)
    return f'{round(change, digits) + 0.0:+.{digits}f}'


def _number(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f'{value:.{digits}f}'


def _join(cells: Sequence[str]) -> str:
    return '| ' + ' | '.join(cells) + ' |'


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
