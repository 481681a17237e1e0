"""Sets what was measured of a table beside the paper's figures: JSON, Markdown and a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer_plusplus.evaluation.plots import Panel, Point, Series, draw_panels
from segformer_plusplus.evaluation.results import SPEED_UP, Column, ResultsTable, Row
from segformer_plusplus.evaluation.timing import name_threads
from segformer_plusplus.files import write_json, write_text
from tools.paper_tables.data import DATA_SETS
from tools.paper_tables.plan import BENCHMARK, VERSIONS, Settings
from tools.paper_tables.small import SMALL
from tools.paper_tables.tables import PAPER, Table

Record = Mapping[str, Any]
Value = Callable[[Row, Row], float | str | None]

_GB = 1e9
_TIMED = {'inference': 'inference', 'training': 'training step'}
_NOT_COMPARABLE = 'data and model size differ from the paper'
_MEMORY = (
    'Memory: the peak of a training step on top of weights and optimizer state, which are the '
    'same in all rows; 1 GB is 10^9 bytes'
)


@dataclass(frozen=True)
class Report:
    """Holds what is known of a table.

    Attributes:
        table: of the paper, or one of ours.
        settings: of the call.
        rows: the rows that are shown.
        records: of the steps, by row and for the benchmark; None where nothing was measured.
        reasons: why a step was not done.
    """

    table: Table
    settings: Settings
    rows: tuple[str, ...]
    records: Mapping[str, Record | None]
    reasons: Mapping[str, str]

    @property
    def figures(self) -> dict[str, str]:
        """Keys of the figures, as the paper's table has them, and their heads."""
        figures = {name: name for name in self.table.metrics}
        figures['speed_up'] = f'speed-up ({_TIMED[self.table.timed]})'
        return {**figures, 'memory_gb': 'memory GB'} if self.table.reports_memory else figures

    def measured(self, row: str) -> dict[str, float]:
        """Returns the figures of a row that were measured."""
        record, times = self.records[row], self.records[BENCHMARK]
        values: dict[str, float] = dict(record['result']) if record else {}
        if times:
            result = times['result']['rows'][row]
            values['speed_up'] = result['speed_up']
            values['memory_gb'] = result['peak_memory_bytes'] / _GB
        return {key: values[key] for key in self.figures if key in values}

    def not_measured(self, row: str) -> dict[str, str]:
        """Returns why the other figures were not measured."""
        measured = self.measured(row)
        steps = {key: row if key in self.table.metrics else BENCHMARK for key in self.figures}
        return {
            key: self.reasons.get(step, 'not measured yet')
            for key, step in steps.items()
            if key not in measured
        }

    def difference(self, row: str) -> dict[str, float]:
        """Returns ours less the paper's, of the rounded values, where the two are comparable."""
        paper = self.table.figures[row]
        return {
            key: round(round(value, 1 if key == 'memory_gb' else 2) - paper[key], 2) + 0.0
            for key, value in self.measured(row).items()
            if key in paper and self.not_comparable(key) is None
        }

    def not_comparable(self, key: str) -> str | None:
        """Returns why a figure of the paper's is no counterpart of ours; None if it is one."""
        if self.settings.synthetic:
            return _NOT_COMPARABLE
        times = self.records[BENCHMARK]
        if key == 'memory_gb' and times and times['device'] == 'cpu':
            return "memory: ours is that of a CPU, the paper's that of a GPU"
        return None

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked for is measured."""
        return not self.reasons and not any(self.not_measured(row) for row in self.rows)

    @property
    def results(self) -> ResultsTable:
        """The table of ours and the paper's figures."""
        columns = list(self._columns() if self.table.name in PAPER else self._own_columns())
        more = {
            'table': self.table.name,
            'data': self.settings.data,
            'comparable': bool(self.table.paper) and not self.settings.synthetic,
            'records': dict(self.records),
        }
        rows = [self._row(name) for name in self.rows]
        return ResultsTable(rows, columns, caption=self._caption(), more=more)

    def _row(self, name: str) -> Row:
        measured, times = self.measured(name), self.records[BENCHMARK]
        timed = times['result']['rows'][name] if times else {}
        return Row(
            name,
            values={key: measured[key] for key in self.table.metrics if key in measured},
            median_seconds=timed.get('median_seconds'),
            quartiles_seconds=timed.get('quartiles_seconds'),
            speed_up=timed.get('speed_up'),
            peak_memory_bytes=timed.get('peak_memory_bytes'),
            more={
                'measured': measured,
                'paper': self.table.figures[name],
                'difference': self.difference(name),
                'not_measured': self.not_measured(name),
            },
        )

    def _columns(self) -> Iterator[Column]:
        comparable = not self.settings.synthetic
        for key, label in self.figures.items():
            digits = 1 if key == 'memory_gb' else 2
            yield Column(label, self._ours(key), digits)
            if key in self.table.figures[self.rows[0]]:
                name = label.partition(' (')[0]
                yield Column(f'paper {name}', self._paper(key), digits)
                if comparable:
                    yield Column('difference', self._difference(key), digits, sign=True)
        if not comparable:
            yield Column('comparable', lambda *_: 'no')

    def _own_columns(self) -> Iterator[Column]:
        for name in self.table.metrics:
            yield Column(name, self._ours(name))
            yield Column('change', _change(name), sign=True)
        yield SPEED_UP
        yield Column('ms / image', self._milliseconds, digits=0)
        for key in (*self.table.metrics, 'speed_up') if self.table.paper else ():
            yield Column(f'paper {key.replace("_", "-")}', self._paper(key))

    def _ours(self, key: str) -> Value:
        def value(row: Row, _: Row) -> float | str | None:
            number = self.measured(row.name).get(key)
            # of a small model on small images, the usual digits would be 0.0
            return f'{number:.3f}' if key == 'memory_gb' and number and number < 1 else number

        return value

    def _paper(self, key: str) -> Value:
        return lambda row, _: self.table.figures[row.name].get(key)

    def _difference(self, key: str) -> Value:
        return lambda row, _: self.difference(row.name).get(key)

    def _milliseconds(self, row: Row, baseline: Row) -> float | None:
        if row.median_seconds is None:
            return None
        return 1e3 * row.median_seconds / self.settings.batch_size_of(self.table)

    def _caption(self) -> str:
        images, times = self.table.images, self.records[BENCHMARK]
        if not images or not times:
            return ''
        return self.table.caption.format(
            train=images.train,
            val=images.val,
            size='x'.join(map(str, self.table.shape)),
            torch=times['environment']['versions']['torch'],
            **{**times['fingerprint']['asked'], 'device': _device(times)},
        )

    def to_markdown(self) -> str:
        """Returns what was measured on what, the table, and below it what is missing."""
        warning = ''
        if self.settings.is_small(self.table):
            warning = (
                f'**Not comparable: ours is MiT-B0 after {self.settings.small_iters} '
                "iterations on drawn images at a small size; the paper's columns are MiT-B5 on "
                f'{DATA_SETS[self.table.data].title}. No difference is computed.**'
            )
        table = self.results.to_markdown().rstrip('\n')
        parts = [f'# {self.table.title}', '\n'.join(self._head()), warning, table]
        parts += [self.missing, *self._notes()]
        return '\n\n'.join(filter(None, parts)) + '\n'

    def _head(self) -> Iterator[str]:
        records = [record for record in self.records.values() if record]
        data, small = DATA_SETS[self.table.data].title, self.settings.synthetic
        if small:
            images = self.table.images or SMALL[self.table.data]
            amounts = f'{images.train} images to train, {images.val} to test'
            data = f'drawn in the layout of {data}: {amounts}'
        yield f'- data: {data}'
        yield f'- model: {"MiT-B0" if small or "mit-b0" in self.table.config else "MiT-B5"}'
        yield f'- device: {_each(_device(record) for record in records)}'
        times = self.records[BENCHMARK]
        if times:
            asked = times['fingerprint']['asked']
            size = ' x '.join(map(str, (asked['batch_size'], 3, *asked['shape'])))
            yield (
                f'- speed-up: {_TIMED[asked["timed"]]}, {asked["dtype"]}, random input {size}, '
                f'median of {asked["rounds"]} rounds in turn, '
                f'{name_threads(times["result"]["threads"])} on {_device(times)}'
            )
        yield '- accuracy: tools/test.py, float32'
        environments = [record['environment'] for record in records]
        pythons = _each(f'Python {each["python"]}' for each in environments)
        versions = _each(
            ', '.join(filter(None, (each['versions'][name] for name in VERSIONS)))
            for each in environments
        )
        yield f'- versions: {pythons}; {versions}'
        yield f'- commit: {_each(each["git_commit"] or "unknown" for each in environments)}'
        if self.table.paper:
            yield '- paper: MiT-B5 on the full data, figures of the paper, not measured here'

    @property
    def missing(self) -> str:
        """Why figures are missing, a line for each reason; empty if none is."""
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            for key, reason in self.not_measured(row).items():
                reasons.setdefault(reason, []).append(f'{row} {self.figures[key]}')
        lines = [f'- {", ".join(cells)}: {reason}' for reason, cells in reasons.items()]
        return '\n'.join(['Not measured:', '', *lines]) if lines else ''

    def _notes(self) -> Iterator[str]:
        if not self.table.reports_memory:
            return
        if not self.settings.synthetic and self.not_comparable('memory_gb'):
            yield f'No difference of {self.not_comparable("memory_gb")}'
        if self.records[BENCHMARK]:
            yield _MEMORY

    def write(self, folder: Path, plot: bool = True) -> None:
        """Writes TABLE.md, TABLE.json and, if asked for, TABLE.png."""
        write_json(folder / f'{self.table.name}.json', self.results.to_json())
        write_text(folder / f'{self.table.name}.md', self.to_markdown())
        picture = folder / f'{self.table.name}.png'
        if plot:
            picture.unlink(missing_ok=True)  # of an older state
            panels = list(self._panels())
            if panels:
                apart = self.not_comparable('speed_up')
                note = f'\nnot comparable: {apart}' if apart else ''
                draw_panels(picture, panels, self.table.title + note)

    def _panels(self) -> Iterator[Panel]:
        """Yields accuracy over speed-up: ours filled, the paper's hollow, apart if they differ."""
        data = DATA_SETS[self.table.data].title
        label = f'ours: MiT-B0, drawn data as {data}' if self.settings.synthetic else 'ours'
        for metric in self.table.metrics:
            ours = {row: self.measured(row) for row in self.rows}
            paper = {row: self.table.figures[row] for row in self.rows}
            series = [Series(_points(ours, metric), label)]
            if self.table.paper:
                theirs = f'paper: MiT-B5, {data}'
                series.append(Series(_points(paper, metric), theirs, 'D', filled=False))
            if not all(each.points for each in series):
                continue
            y_label = f'{metric} in %'
            if self.settings.synthetic:
                yield Panel(y_label, series[:1], x_label=self.figures['speed_up'])
                yield Panel(y_label, series[1:], x_label='speed-up (paper)')
            else:
                yield Panel(y_label, series, x_label=self.figures['speed_up'])


def _change(key: str) -> Value:
    def change(row: Row, baseline: Row) -> float | None:
        if key not in row.values or key not in baseline.values:
            return None
        # of the rounded values, so that it is what a reader computes
        return round(row.values[key], 2) - round(baseline.values[key], 2)

    return change


def _points(rows: Mapping[str, Mapping[str, float]], metric: str) -> list[Point]:
    both = {name: figures for name, figures in rows.items() if {metric, 'speed_up'} <= {*figures}}
    return [Point(figures['speed_up'], figures[metric], name) for name, figures in both.items()]


def _device(record: Record) -> str:
    environment = record['environment']
    return str(environment['gpu'] if record['device'] == 'cuda' else environment['cpu'])


def _each(values: Iterator[str]) -> str:
    """Returns every value once; '-' for none."""
    return ' / '.join(dict.fromkeys(values)) or '-'
