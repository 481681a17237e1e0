"""A table with one row per strategy: what was measured here beside what the paper reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from tools.paper_tables.paper import PAPER_TABLES, PaperRow

METRICS = {'miou': 'mIoU', 'pck_0.1': 'PCK@0.1', 'pck_0.05': 'PCK@0.05'}
"""Accuracies in percent: their keys in ``PAPER_TABLES`` and their names in a table."""


@dataclass(frozen=True)
class Row:
    """One strategy.

    Attributes:
        strategy: its preset.
        accuracy: in percent, by the keys of ``METRICS``; the same ones in every row.
        speed_up: against the first row.
        milliseconds: median latency of one image.
    """

    strategy: str
    accuracy: dict[str, float]
    speed_up: float
    milliseconds: float


@dataclass(frozen=True)
class StrategyTable:
    """The inference table: one checkpoint tested under several strategies.

    Attributes:
        rows: measured here; the first is the baseline.
        caption: what was measured, on what.
        commands: that made it, in order.
        paper_table: the paper's rows to set beside them, a key of ``PAPER_TABLES``.
    """

    rows: tuple[Row, ...]
    caption: str
    commands: tuple[str, ...]
    paper_table: str

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> StrategyTable:
        """The inverse of :meth:`to_json`, which may have more keys."""
        return cls(
            rows=tuple(Row(**row) for row in content['rows']),
            caption=content['caption'],
            commands=tuple(content['commands']),
            paper_table=content['paper_table'],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, to be written as JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """A Markdown table with its caption."""
        header = self._header()
        lines = [_join(header), _join(['---'] + ['---:'] * (len(header) - 1))]
        lines += [_join(cells) for cells in self._cells()]
        return '\n'.join([*lines, '', self.caption, ''])

    def to_rich(self) -> Table:
        """For the terminal."""
        table = Table(caption=self.caption)
        for index, column in enumerate(self._header()):
            table.add_column(column, justify='right' if index else 'left')
        for cells in self._cells():
            table.add_row(*cells)
        return table

    def _header(self) -> list[str]:
        names = [METRICS[key] for key in self.rows[0].accuracy]
        measured = ['strategy', *(column for name in names for column in (name, 'change'))]
        return [
            *measured,
            'speed-up',
            'ms / image',
            *(f'paper {name}' for name in names),
            'paper speed-up',
        ]

    def _cells(self) -> list[list[str]]:
        paper = PAPER_TABLES[self.paper_table]
        baseline = self.rows[0].accuracy
        return [_cells(row, baseline, paper.get(row.strategy)) for row in self.rows]


def _cells(row: Row, baseline: Mapping[str, float], paper: PaperRow | None) -> list[str]:
    cells = [row.strategy]
    for key, value in row.accuracy.items():
        # of the rounded values, so that it is what a reader computes; no -0.00
        change = round(value, 2) - round(baseline[key], 2)
        cells += [f'{value:.2f}', f'{round(change, 2) + 0.0:+.2f}']
    cells += [f'{row.speed_up:.2f}', f'{row.milliseconds:.0f}']
    return cells + [f'{paper[key]:.2f}' if paper else '' for key in (*row.accuracy, 'speed_up')]


def _join(cells: Any) -> str:
    return '| ' + ' | '.join(cells) + ' |'
