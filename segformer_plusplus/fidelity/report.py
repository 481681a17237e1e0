"""What was measured, as a table for the terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from rich.table import Table

from ..engine.benchmarking import device_name
from .base import MEASURES
from .measuring import FidelityRow, Measurement

_NOTHING = '-'


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
