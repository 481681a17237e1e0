"""Makes the tables of results of benchmark, fidelity, tuning and the paper.

A table becomes JSON, Markdown, or text on the terminal:

    table = ResultsTable(rows, [*measure_columns(rows, 'mIoU'), MILLISECONDS, SPEED_UP])
    table = replace(table, columns=[*table.columns, Column('MB', lambda row, _: row.more['mb'])])
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rich.markup import escape
from rich.table import Table

from .timing import Timing

NOTHING = '-'
"""What a cell shows where nothing was measured."""

PRESENT = '_present'
"""What follows the name of a mean over classes if it leaves out those without ground truth."""


@dataclass(frozen=True)
class Measure:
    """Describes a measure of accuracy for tables and plots.

    Attributes:
        unit: '%' or 'px'.
        digits: behind the point.
        higher_is_better: whether more is better; otherwise the baseline has 0.
        needs_truth: whether it compares with ground truth; otherwise it compares with the baseline.
    """

    label: str
    unit: str
    digits: int
    higher_is_better: bool
    needs_truth: bool


MEASURES: dict[str, Measure] = {
    'mIoU': Measure('mIoU', '%', 2, higher_is_better=True, needs_truth=True),
    'mIoU_fine': Measure('mIoU fine', '%', 2, higher_is_better=True, needs_truth=True),
    'changed': Measure('changed', '%', 3, higher_is_better=False, needs_truth=False),
    'PCK@0.1': Measure('PCK@0.1', '%', 2, higher_is_better=True, needs_truth=True),
    'PCK@0.05': Measure('PCK@0.05', '%', 2, higher_is_better=True, needs_truth=True),
    'AP': Measure('AP', '%', 2, higher_is_better=True, needs_truth=True),
    'shift': Measure('shift', 'px', 3, higher_is_better=False, needs_truth=False),
}
"""What can be measured of a preset beside its time, by name."""


@dataclass(frozen=True)
class Row:
    """Holds what was measured of one model or preset.

    Attributes:
        name: of the preset, of the file that holds it, or of the model.
        token_merging: the strategies, spelt out, so that a record outlives a preset.
        values: measures by name, keys of ``MEASURES``; empty if no image was predicted.
        drop: the baseline's value of the main measure less this one's (0.1 is 0.1 points of mIoU):
            above 0 is worse. Of a measure of changes, the value itself.
        median_seconds: wall-clock time of one call; None if it was not timed.
        quartiles_seconds: the first and the third.
        speed_up: the baseline's time over this one's.
        peak_memory_bytes: on top of what was allocated before the call.
        error: why something is missing.
        more: whatever else a caller measures, by its key in the JSON file; of a benchmark
            'images_per_second', 'parameters', 'gflops', 'stages' and the like.
    """

    name: str
    token_merging: Any = None
    values: Mapping[str, float] = field(default_factory=dict)
    drop: float | None = None
    median_seconds: float | None = None
    quartiles_seconds: tuple[float, float] | None = None
    speed_up: float | None = None
    peak_memory_bytes: int | None = None
    error: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def strategy(self) -> str:
        """Returns the name, as version 0.1 called it."""
        warnings.warn('Row.strategy is Row.name now', FutureWarning, stacklevel=2)
        return self.name

    @classmethod
    def timed(cls, name: str, timing: Timing | None, baseline: Timing | None, **more: Any) -> Row:
        """Makes a row with the times of a model, if any, and the speed-up over the baseline."""
        if timing is None:
            return cls(name, **more)
        return cls(
            name,
            median_seconds=timing.median,
            quartiles_seconds=timing.quartiles,
            speed_up=baseline.median / timing.median if baseline else None,
            **more,
        )

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Row:
        """Reads what ``to_json`` gave; keys that are no field go into ``more``."""
        content = dict(record)
        if 'name' not in content:
            content['name'] = content.pop('strategy')  # how version 0.1 called it
        known = {each.name for each in fields(cls)} - {'more'}
        more = {key: content.pop(key) for key in list(content) if key not in known}
        return cls(**content, more=more)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, with those of ``more`` beside the others."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != 'more'}
        return {**own, 'values': dict(self.values), **self.more}


@dataclass(frozen=True)
class Column:
    """Says how a table shows one value of its rows.

    Attributes:
        label: the head of the column.
        value: returns the number or the text of a row, given the row and the baseline, or None.
        digits: behind the point of a number.
        sign: write a plus before what is not negative.
        drop_if_empty: leave the column out if no row has a value.
    """

    label: str
    value: Callable[[Row, Row], float | str | None]
    digits: int = 2
    sign: bool = False
    drop_if_empty: bool = False

    def cell(self, row: Row, baseline: Row) -> str:
        """Returns what the table shows of a row."""
        value = self.value(row, baseline)
        if value is None:
            return NOTHING
        if isinstance(value, str):
            return value
        # no -0.00
        return f'{round(value, self.digits) + 0.0:{"+" if self.sign else ""}.{self.digits}f}'


def _milliseconds(row: Row, baseline: Row) -> str | None:
    if row.median_seconds is None:
        return None
    value = 1e3 * row.median_seconds
    return f'{value:.0f}' if value >= 100 else f'{value:.1f}'


def _spread(row: Row, baseline: Row) -> str | None:
    if row.median_seconds is None or row.quartiles_seconds is None:
        return None
    return spread(row.median_seconds, row.quartiles_seconds)


def spread(median: float, quartiles: Sequence[float]) -> str:
    """Writes seconds as milliseconds, '402 (395-410)', with three digits of the median."""
    digits = 0 if median >= 0.1 else 1 if median >= 0.01 else 2
    low, high = (f'{1e3 * value:.{digits}f}' for value in quartiles)
    return f'{1e3 * median:.{digits}f} ({low}-{high})'


MILLISECONDS = Column('ms', _milliseconds)
SPREAD = Column('ms (quartiles)', _spread)
SPEED_UP = Column('speed-up', lambda row, _: row.speed_up)
MEGABYTES = Column('MB', lambda row, _: row.more.get('megabytes'), digits=1, drop_if_empty=True)
MEMORY = Column(
    'MiB',
    lambda row, _: None if row.peak_memory_bytes is None else row.peak_memory_bytes / 2**20,
    digits=0,
)


def measure_columns(rows: Sequence[Row], main: str) -> list[Column]:
    """Returns a column for each measure that the rows have; the main one is followed by its change.

    The change is the difference from the first row, the baseline.
    """
    columns = []
    for name, measure in MEASURES.items():
        if not any(name in row.values for row in rows):
            continue
        # accuracies are percentages everywhere; other numbers say their unit
        label = measure.label if measure.needs_truth else f'{measure.label} {measure.unit}'
        columns.append(Column(label, _value_of(name), measure.digits))
        if name == main and measure.higher_is_better:
            columns.append(Column('change', _change_of(name, measure.digits), measure.digits, True))
    return columns


def _value_of(name: str) -> Callable[[Row, Row], float | None]:
    return lambda row, _: row.values.get(name)


def _change_of(name: str, digits: int) -> Callable[[Row, Row], float | None]:
    def change(row: Row, baseline: Row) -> float | None:
        if name not in row.values or name not in baseline.values:
            return None
        # of the rounded values, so that it is what a reader computes
        return round(row.values[name], digits) - round(baseline.values[name], digits)

    return change


@dataclass(frozen=True)
class ResultsTable:
    """Holds rows with what a reader needs to understand them.

    Attributes:
        rows: the first is the baseline.
        columns: what is shown of each row beside its name, which stands below ``head``.
        title: stands above the table on the terminal.
        caption: says what was measured, on what.
        command: the command that measured it.
        more: whatever else belongs into the JSON file.
    """

    rows: Sequence[Row]
    columns: Sequence[Column]
    head: str = 'preset'
    title: str = ''
    caption: str = ''
    command: str = ''
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def header(self) -> list[str]:
        """Returns the heads of all columns."""
        return [self.head, *(column.label for column in self._shown())]

    @property
    def cells(self) -> list[list[str]]:
        """Returns the texts of all rows, the names first."""
        return [
            [row.name, *(column.cell(row, self.rows[0]) for column in self._shown())]
            for row in self.rows
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, to be written as JSON."""
        return {
            'rows': [row.to_json() for row in self.rows],
            'caption': self.caption,
            'command': self.command,
            **self.more,
        }

    def to_markdown(self) -> str:
        """Returns a Markdown table with the caption and the command below it."""
        lines = [_join(self.header), _join(['---'] + ['---:'] * (len(self.header) - 1))]
        lines += map(_join, self.cells)
        below = [self.caption] if self.caption else []
        below += [f'    {self.command}'] if self.command else []
        return '\n\n'.join(['\n'.join(lines), *below]) + '\n'

    def to_rich(self) -> Table:
        """Returns a table for the terminal, without the caption; it fits into 80 columns."""
        # of 80 columns, none is for air
        table = Table(
            title=escape(self.title) or None,
            title_justify='left',
            pad_edge=False,
            collapse_padding=True,
        )
        # what is too long is broken, not cut: PCK@0.1 and PCK@0.05 would look the same
        table.add_column(self.head, overflow='fold')
        for label in self.header[1:]:
            table.add_column(label, justify='right', overflow='fold')
        for cells in self.cells:
            table.add_row(*map(escape, cells))
        return table

    def _shown(self) -> list[Column]:
        return [
            column
            for column in self.columns
            if not column.drop_if_empty
            or any(column.value(row, self.rows[0]) is not None for row in self.rows)
        ]


def _join(cells: Sequence[str]) -> str:
    return '| ' + ' | '.join(cells) + ' |'


def find_front(points: Mapping[str, tuple[float, float]], higher_is_better: bool) -> list[str]:
    """Returns the names of the points that no other one beats in both, from slow to fast.

    Args:
        points: speed-up and value by name.
        higher_is_better: whether a higher value is better; a higher speed-up always is.
    """
    sign = 1 if higher_is_better else -1
    # of two equally fast ones the better comes first
    order = sorted(points, key=lambda name: (-points[name][0], -sign * points[name][1]))
    front: list[str] = []
    for name in order:
        if not front or sign * points[name][1] > sign * points[front[-1]][1]:
            front.append(name)
    return front[::-1]
