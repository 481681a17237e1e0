"""Measures the paper's tables and ours: python tools/reproduce.py TABLE..."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table as RichTable

from segformer_plusplus.cli.options import Flat, command
from segformer_plusplus.errors import SegformerPlusPlusError
from tools.paper_tables.plan import BENCHMARK, PICTURE, ROOT, Planner, Settings
from tools.paper_tables.report import Report
from tools.paper_tables.steps import Runner, Step, check_folder, claim_folder, execute
from tools.paper_tables.tables import Table, find_rows, find_tables

INTERRUPTED = 130

Rows = Mapping[str, Sequence[str]]
"""The rows that are asked for, by table."""


def asked_steps(plan: Mapping[str, Step], rows: Sequence[str]) -> dict[str, Step]:
    """Returns the benchmark, the tests of rows and, if all rows are asked for, the picture."""
    keys = [key for key in plan if key == BENCHMARK or key in rows]
    if PICTURE in plan and len(keys) == len(plan) - 1:
        keys.append(PICTURE)
    return {key: plan[key] for key in keys}


def measure(
    settings: Settings, tables: Sequence[Table], rows: Rows, runner: Runner, root: Path = ROOT
) -> list[Report]:
    """Runs what is pending for rows of tables, and writes a report after each step.

    Rows that earlier calls have measured stay in the reports.
    """
    planner, reports = Planner(settings, root), []
    for table in tables:
        plan, reasons = planner.plan(table), {}
        asked = asked_steps(plan, rows[table.name])
        for key, step in asked.items():
            reason = runner.finish(step)
            if reason is not None:
                reasons[key] = reason
            records = {name: runner.record(step) for name, step in plan.items()}
            shown = tuple(row for row in table.rows if row in rows[table.name] or records[row])
            report = Report(table, settings, shown, records, reasons)
            report.write(settings.folder, plot=key == [*asked][-1])
        reports.append(report)
    return reports


def show_plan(
    settings: Settings, tables: Sequence[Table], rows: Rows, runner: Runner, console: Console
) -> bool:
    """Prints what would run, what is done and what is missing; returns if nothing is missing."""
    overview = RichTable('step', 'state', 'would run')
    missing: list[str] = []
    commands: dict[str, None] = {}
    planner = Planner(settings)
    for table in tables:
        for step in asked_steps(planner.plan(table), rows[table.name]).values():
            pending = runner.pending(step)
            problem = '; '.join(dict.fromkeys(each.problem for each in pending if each.problem))
            state = 'missing' if problem else 'to run' if pending else 'done'
            if changed := runner.changed(step):
                state += f' (changed: {", ".join(changed)})'
            if problem:
                missing.append(f'{step.id}: missing: {problem}')
                pending = []
            overview.add_row(step.id, state, ', '.join(each.kind for each in pending))
            commands.update(dict.fromkeys(f'$ {each.line}' for each in pending))
    console.print(overview)
    for line in (*commands, *missing):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return not missing


@command
def reproduce(
    *tables: str,
    rows: str | None = None,
    dry_run: bool = False,
    settings: Annotated[Settings, Flat] = Settings(),
) -> int:
    """Measure the paper's tables, row by row, and set them beside the paper's figures.

    Killed at any moment, the same command goes on where it was. docs/reproduce.md has the layouts
    of data and the names of checkpoints. Exit code: 0, all is measured; 1, a row is missing; 2, the
    call is wrong; 130, interrupted.

    Args:
        tables: cityscapes-inference, cityscapes-training, ade20k, jbd, coco; all for these five;
            camvid, on 468 photographs; demo-seg, demo-pose, on drawn images.
        rows: only these, such as none,hq.
        dry_run: only say what would be done.
    """
    if not tables:
        raise SegformerPlusPlusError('name a table, or all; see --help')
    found = find_tables(tables)
    names = None if rows is None else [name for name in rows.split(',') if name]
    chosen = find_rows(found, names)
    settings = settings.completed(found)
    console = Console()

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)

    folder, data = settings.folder, str(settings.data)
    runner = Runner(folder, ROOT, say, execute)
    if dry_run:
        check_folder(folder, data)
        return 0 if show_plan(settings, found, chosen, runner, console) else 1
    with claim_folder(folder, data):
        try:
            reports = measure(settings, found, chosen, runner)
        except KeyboardInterrupt:
            say('interrupted: the same command goes on here')
            return INTERRUPTED
    for report in reports:
        console.print(report.results.to_rich())
        say(report.missing)
    say(f'results in {folder}')
    return 0 if all(report.is_complete for report in reports) else 1


main = reproduce

if __name__ == '__main__':
    sys.exit(main(prog='python tools/reproduce.py'))
