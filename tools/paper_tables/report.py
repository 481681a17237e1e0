"""A table beside the paper's: Markdown, JSON and a picture."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tools.paper_tables.data import DATA_SETS
from tools.paper_tables.plot import Point, draw_points
from tools.paper_tables.settings import Settings
from tools.paper_tables.state import VERSIONS, Store
from tools.paper_tables.synthetic import TRAIN_IMAGES, VAL_IMAGES
from tools.paper_tables.tables import Table

BENCHMARK = 'benchmark'
SPEED_UP = 'speed_up'
MEMORY = 'memory_gb'

_GB = 1e9
_DIGITS = {MEMORY: 1}
_TIMED = {'inference': 'inference', 'training': 'training step'}


@dataclass(frozen=True)
class Report:
    """What is known of a table.

    Attributes:
        table: the paper's.
        settings: of the call.
        rows: that are shown.
        records: what was measured, by row and for the benchmark; None where nothing was.
        reasons: why it was not.
    """

    table: Table
    settings: Settings
    rows: tuple[str, ...]
    records: Mapping[str, dict[str, Any] | None]
    reasons: Mapping[str, str]

    @property
    def columns(self) -> dict[str, str]:
        """Keys and names of the figures."""
        columns = {metric.key: metric.label for metric in self.table.metrics}
        columns[SPEED_UP] = f'speed-up ({_TIMED[self.table.timed]})'
        if self.table.reports_memory:
            columns[MEMORY] = 'memory GB'
        return columns

    def measured(self, row: str) -> dict[str, float]:
        """The figures of a row that were measured."""
        values: dict[str, float] = {}
        record, times = self.records[row], self.records[BENCHMARK]
        if record is not None:
            values.update(record['accuracy'])
        if times is not None:
            values[SPEED_UP] = times['rows'][row]['speed_up']
            if self.table.reports_memory:
                values[MEMORY] = times['rows'][row]['peak_memory_bytes'] / _GB
        return {key: values[key] for key in self.columns if key in values}

    def not_measured(self, row: str) -> dict[str, str]:
        """Why the other figures were not."""
        return {
            key: self._reason(row, key) for key in self.columns if key not in self.measured(row)
        }

    def faults(self) -> list[str]:
        """What was asked for, could have been measured and was not."""
        reasons = {reason for row in self.rows for reason in self.not_measured(row).values()}
        return sorted(reasons)

    def difference(self, row: str) -> dict[str, float]:
        """Ours less the paper's, of the rounded values, where the two can be compared."""
        paper = self.table.figures[row]
        return {
            key: round(round(value, _digits(key)) - paper[key], _digits(key)) + 0.0
            for key, value in self.measured(row).items()
            if key in paper and self.not_comparable(key) is None
        }

    def not_comparable(self, key: str) -> str | None:
        """Why a figure of the paper's is no counterpart of ours; None if it is one."""
        if self.settings.synthetic:
            return 'data and model size differ from the paper'
        times = self.records[BENCHMARK]
        if key == MEMORY and times is not None and times['device'] == 'cpu':
            return "memory: ours is that of a CPU, the paper's that of a GPU"
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain values, to be written as JSON."""
        return {
            'table': self.table.name,
            'data': self.settings.data,
            'comparable': not self.settings.synthetic,
            'rows': [
                {
                    'strategy': row,
                    'measured': self.measured(row),
                    'paper': self.table.figures[row],
                    'difference': self.difference(row),
                    'not_measured': self.not_measured(row),
                    'accuracy_record': self.records[row],
                }
                for row in self.rows
            ],
            'benchmark_record': self.records[BENCHMARK],
        }

    def to_markdown(self) -> str:
        """Head, table, and below it what is missing."""
        comparable = not self.settings.synthetic
        header = ['strategy']
        for key, name in self.columns.items():
            header.append(name)
            if key in self.table.figures[self.rows[0]]:
                header.append(f'paper {name.partition(" (")[0]}')
                header += ['difference'] if comparable else []
        header += [] if comparable else ['comparable']
        lines = [f'# {self.table.title}', '', *self._head(), '']
        if not comparable:
            lines += [f'**{self._warning()}**', '']
        lines += [_join(header), _join(['---'] + ['---:'] * (len(header) - 1))]
        lines += [_join(self._cells(row)) for row in self.rows]
        notes = list(self._notes())
        return '\n'.join([*lines, '', *notes]).rstrip('\n') + '\n'

    def points(self, key: str) -> list[Point]:
        """Ours and the paper's accuracy over speed-up."""
        points = []
        for row in self.rows:
            ours, paper = self.measured(row), self.table.figures[row]
            if key in ours and SPEED_UP in ours:
                points.append(Point(row, ours[SPEED_UP], ours[key], ours=True))
            if key in paper:
                points.append(Point(row, paper[SPEED_UP], paper[key], ours=False))
        return points

    def _cells(self, row: str) -> Iterator[str]:
        ours, paper, difference = self.measured(row), self.table.figures[row], self.difference(row)
        yield row
        for key in self.columns:
            digits = _digits(key)
            yield _number(key, ours[key]) if key in ours else '-'
            if key in paper:
                yield f'{paper[key]:.{digits}f}'
                if not self.settings.synthetic:
                    yield f'{difference[key]:+.{digits}f}' if key in difference else '-'
        if self.settings.synthetic:
            yield 'no: other data and model'

    def _head(self) -> Iterator[str]:
        records = [r for row in (*self.rows, BENCHMARK) if (r := self.records[row]) is not None]
        environments = [record['environment'] for record in records]
        data = DATA_SETS[self.table.data].title
        if self.settings.synthetic:
            images = f'{TRAIN_IMAGES} images to train, {VAL_IMAGES} to test'
            data = f'drawn in the layout of {data}: {images}'
        yield f'- data: {data}'
        yield f'- model: {"MiT-B0" if self.settings.synthetic else "MiT-B5"}'
        names = [_device_name(record) for record in records]
        yield f'- device: {_some(names)}'
        times = self.records[BENCHMARK]
        if times is not None:
            asked = times['fingerprint']['asked']
            size = ' x '.join(map(str, (asked['batch_size'], 3, *asked['shape'])))
            yield (
                f'- speed-up: {_TIMED[asked["timed"]]}, {asked["dtype"]}, random input {size}, '
                f'median of {asked["rounds"]} rounds in turn, {times["threads"]} threads on '
                f'{_device_name(times)}'
            )
        yield '- accuracy: tools/test.py, float32'
        versions = [
            ', '.join(filter(None, (e['versions'][name] for name in VERSIONS)))
            for e in environments
        ]
        pythons = [f'Python {e["python"]}' for e in environments]
        yield f'- versions: {_some(pythons)}; {_some(versions)}'
        yield f'- commit: {_some([e["git_commit"] or "unknown" for e in environments])}'
        yield '- paper: MiT-B5 on the full data, figures of the paper, not measured here'

    def _warning(self) -> str:
        return (
            f'Not comparable: ours is MiT-B0 after {self.settings.iterations} iterations on drawn '
            "images at a small size; the paper's columns are MiT-B5 on "
            f'{DATA_SETS[self.table.data].title}. No difference is computed.'
        )

    def _notes(self) -> Iterator[str]:
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            for key, reason in self.not_measured(row).items():
                reasons.setdefault(reason, []).append(f'{row} {self.columns[key]}')
        if reasons:
            yield 'Not measured:'
            yield ''
            for reason, cells in reasons.items():
                yield f'- {", ".join(cells)}: {reason}'
            yield ''
        if not self.settings.synthetic:
            for key in self.columns:
                reason_not = self.not_comparable(key)
                if reason_not and any(key in self.measured(row) for row in self.rows):
                    yield f'- no difference of {reason_not}'
        if self.table.reports_memory and any(MEMORY in self.measured(row) for row in self.rows):
            yield f'- {_MEMORY}'

    def _reason(self, row: str, key: str) -> str:
        return self.reasons[BENCHMARK if key in (SPEED_UP, MEMORY) else row]


_MEMORY = (
    'memory: the peak of a training step on top of weights and optimizer state, which are the same '
    'in all rows; 1 GB is 10^9 bytes'
)


def write_report(store: Store, report: Report, plot: bool = True) -> None:
    """Write TABLE.md, TABLE.json and, if asked for and there is something to draw, TABLE.png."""
    name = report.table.name
    store.write(f'{name}.json', report.to_json())
    store.write_bytes(f'{name}.md', report.to_markdown().encode())
    if not plot:
        return
    panels = {
        metric.label: report.points(metric.key)
        for metric in report.table.metrics
        if metric.key in report.table.figures[report.rows[0]]
    }
    if not any(point.ours for points in panels.values() for point in points):
        (store.folder / f'{name}.png').unlink(missing_ok=True)  # one of an older state
        return
    data = DATA_SETS[report.table.data].title
    ours = f'ours: MiT-B0, drawn data as {data}' if report.settings.synthetic else 'ours'
    x_label = report.columns[SPEED_UP]
    picture = io.BytesIO()
    draw_points(
        picture, panels, report.table.title, (ours, f'paper: MiT-B5, {data}'),
        x_label, apart=report.not_comparable(SPEED_UP),
    )  # fmt: skip
    store.write_bytes(f'{name}.png', picture.getvalue())


def _device_name(record: Mapping[str, Any]) -> str:
    environment = record['environment']
    return str(environment['gpu'] if record['device'] == 'cuda' else environment['cpu'])


def _number(key: str, value: float) -> str:
    # of a small model on small images, more would be 0.0
    digits = 3 if key == MEMORY and value < 1 else _digits(key)
    return f'{value:.{digits}f}'


def _digits(key: str) -> int:
    return _DIGITS.get(key, 2)


def _some(values: list[str]) -> str:
    """Every one of them once; '-' for none."""
    return ' / '.join(dict.fromkeys(values)) or '-'


def _join(cells: Any) -> str:
    return '| ' + ' | '.join(cells) + ' |'
