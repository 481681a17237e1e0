"""A table with one row per strategy: what was measured here beside what the paper reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from .paper import PAPER_TABLES

_HEADER = ('strategy', 'mIoU', 'change', 'speed-up', 'ms / image', 'paper mIoU', 'paper speed-up')


@dataclass(frozen=True)
class Row:
    """One strategy.

    Attributes:
        strategy: its preset.
        miou: in percent.
        speed_up: against the first row.
        milliseconds: median latency of one image.
    """

    strategy: str
    miou: float
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
    paper_table: str = 'cityscapes_inference'

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
        lines = [_join(_HEADER), _join(['---'] + ['---:'] * (len(_HEADER) - 1))]
        lines += [_join(cells) for cells in self._cells()]
        return '\n'.join([*lines, '', self.caption, ''])

    def to_rich(self) -> Table:
        """For the terminal."""
        table = Table(caption=self.caption)
        for column in _HEADER:
            table.add_column(column, justify='left' if column == _HEADER[0] else 'right')
        for cells in self._cells():
            table.add_row(*cells)
        return table

    def _cells(self) -> list[list[str]]:
        paper = PAPER_TABLES[self.paper_table]
        baseline = self.rows[0].miou
        return [
            [
                row.strategy,
                f'{row.miou:.2f}',
                f'{row.miou - baseline:+.2f}',
                f'{row.speed_up:.2f}',
                f'{row.milliseconds:.0f}',
                f'{paper[row.strategy]["miou"]:.2f}' if row.strategy in paper else '',
                f'{paper[row.strategy]["speed_up"]:.2f}' if row.strategy in paper else '',
            ]
            for row in self.rows
        ]


def _join(cells: Any) -> str:
    return '| ' + ' | '.join(cells) + ' |'
