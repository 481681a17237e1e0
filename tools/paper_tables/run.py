"""Carries out what is planned, step by step; what is done is on disk before the next step."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from tools.paper_tables import state
from tools.paper_tables.plan import BENCHMARK, DONE, FAILED, Plan, Planner
from tools.paper_tables.report import Report, write_report
from tools.paper_tables.settings import Settings
from tools.paper_tables.state import Store
from tools.paper_tables.steps import Runner, Step
from tools.paper_tables.tables import Table

_MOST_STEPS = 4


class Reproduction:
    """Measures rows of tables.

    Args:
        settings: of the call.
        store: claimed.
        runner: runs a step.
        console: where progress is shown.
    """

    def __init__(self, settings: Settings, store: Store, runner: Runner, console: Console) -> None:
        self.settings = settings
        self.store = store
        self.planner = Planner(settings, store)
        self._runner = runner
        self._console = console
        self._reasons: dict[tuple[str, str], str] = {}
        self._failed: dict[str, str] = {}

    def run(self, tables: Sequence[Table], rows: Mapping[str, Sequence[str]]) -> list[Report]:
        """Measure what is not measured yet, and write the reports.

        Args:
            tables: one after the other.
            rows: of each table.
        """
        reports = []
        for table in tables:
            self._console.rule(table.title)
            for row in (BENCHMARK, *rows[table.name]):
                self._finish(table, row)
                report = self.report(table, rows[table.name])
                write_report(self.store, report, plot=row == rows[table.name][-1])
            reports.append(report)
        return reports

    def report(self, table: Table, rows: Sequence[str]) -> Report:
        """What is measured so far, the rows of earlier calls included."""
        plans = {row: self.planner.plan(table, row) for row in (BENCHMARK, *table.rows)}
        shown = [row for row in table.rows if row in rows or plans[row].record]
        records = {row: plan.record for row, plan in plans.items()}
        reasons = {row: self._reasons.get((table.name, row), 'not measured yet') for row in plans}
        return Report(table, self.settings, tuple(shown), records, reasons)

    def _finish(self, table: Table, row: str) -> None:
        name = f'{table.name} {row}'
        for _ in range(_MOST_STEPS):
            plan = self.planner.plan(table, row)
            if plan.record is not None:
                self._say(f'{name}: done{_results(plan.record)}')
                return
            if plan.problem:
                self._give_up(plan, plan.problem, 'missing')
                return
            reason = self._run(plan, plan.steps[0])
            if reason is not None:
                self._give_up(plan, f'{plan.steps[0].kind}: {reason}', 'failed')
                return
        raise RuntimeError(f'{name}: the same steps come again and again: {plan.steps}')

    def _run(self, plan: Plan, step: Step) -> str | None:
        """Run a step and write down what it left; returns the reason of a failure."""
        if step.line in self._failed:
            return self._failed[step.line]
        if plan.changed:
            self._say(f'{plan.table.name} {plan.row}: changed: {", ".join(plan.changed)}')
        self._say(f'$ {step.line}', 'bold')
        with self._console.status(f'{plan.table.name} {plan.row}: {step.kind}, see {step.log}'):
            outcome = self._runner(step)
        reason = outcome.reason or self._record(plan, step, outcome.seconds)
        if reason is not None:
            self._failed[step.line] = reason
        return reason

    def _record(self, plan: Plan, step: Step, seconds: float) -> str | None:
        if step.kind == 'train' and plan.training is not None:
            return plan.training.finish()
        if step.kind == 'data' or step.result is None:
            return None
        try:
            content = json.loads(step.result.read_text())
            results = (
                read_metrics(plan, content) if step.kind == 'test' else read_times(plan, content)
            )
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            return (
                f'{step.result} holds no result ({type(error).__name__}: {error}), see {step.log}'
            )
        self._write(plan, DONE, **results, command=step.line, seconds=round(seconds, 1))
        return None

    def _give_up(self, plan: Plan, reason: str, status: str) -> None:
        self._reasons[plan.table.name, plan.row] = reason
        self._say(f'{plan.table.name} {plan.row}: {status}: {reason}', 'red')
        if status == FAILED:
            self._write(plan, FAILED, reason=reason)

    def _write(self, plan: Plan, status: str, **content: Any) -> None:
        weights = {}
        if plan.checkpoint is not None:
            weights = {'file': str(plan.checkpoint), 'sha256': state.hash_file(plan.checkpoint)}
        self.store.write(
            plan.state,
            {
                'table': plan.table.name,
                'row': plan.row,
                'status': status,
                **content,
                'checkpoint': weights,
                'device': self.settings.device,
                'data': self.settings.data,
                'environment': state.environment(),
                'finished': time.strftime('%Y-%m-%d %H:%M:%S %z'),
                'fingerprint': plan.fingerprint,
            },
        )

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)


def read_metrics(plan: Plan, content: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracies in percent from the JSON of ``tools/test.py``.

    Raises:
        KeyError: one is missing.
        TypeError: one is no number.
    """
    return {
        'accuracy': {
            metric.key: metric.factor * content[metric.source] for metric in plan.table.metrics
        }
    }


def read_times(plan: Plan, content: Mapping[str, Any]) -> dict[str, Any]:
    """Speed and memory of every row from the JSON of ``tools/benchmark.py``.

    Raises:
        KeyError, IndexError: it does not hold them.
        ValueError: it was interrupted, or has other rows.
    """
    (run,) = content['runs']
    if run.get('complete') is not True:
        raise ValueError('the benchmark was interrupted')
    kept = 'speed_up', 'median_seconds', 'quartiles_seconds', 'peak_memory_bytes', 'parameters'
    pairs = zip(plan.table.rows, run['results'], strict=True)
    return {
        'rows': {row: {key: result[key] for key in kept} for row, result in pairs},
        'threads': run['threads'],
    }


def show_plan(
    settings: Settings, tables: Sequence[Table], rows: Mapping[str, Sequence[str]], console: Console
) -> bool:
    """Print what would run, what is done and what is missing; writes nothing.

    Returns:
        Whether nothing is missing.
    """
    planner = Planner(settings, Store(settings.out))
    plans = [planner.plan(table, row) for table in tables for row in (BENCHMARK, *rows[table.name])]
    overview = RichTable('table', 'row', 'state', 'steps')
    for plan in plans:
        status = 'missing' if plan.problem else 'done' if plan.record else 'to run'
        if plan.changed:
            status += f' (changed: {", ".join(plan.changed)})'
        overview.add_row(
            plan.table.name, plan.row, status, ', '.join(step.kind for step in plan.steps)
        )
    console.print(overview)
    shown: set[str] = set()
    for plan in plans:
        for text in [f'$ {step.line}' for step in plan.steps]:
            if text not in shown:
                console.print(text, soft_wrap=True, highlight=False, markup=False)
                shown.add(text)
        if plan.problem:
            text = f'{plan.table.name} {plan.row}: missing: {plan.problem}'
            console.print(text, soft_wrap=True, highlight=False, markup=False)
    return not any(plan.problem for plan in plans)


def _results(record: Mapping[str, Any]) -> str:
    values = record.get('accuracy', {})
    if 'rows' in record:
        values = {row: result['speed_up'] for row, result in record['rows'].items()}
    return ''.join(f', {key} {value:.2f}' for key, value in values.items())


def exit_code(reports: Sequence[Report]) -> int:
    """0 if all that was asked for is measured, 1 if not."""
    return int(any(report.faults() for report in reports))
