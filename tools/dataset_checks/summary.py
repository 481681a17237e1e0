"""Prints the report of a check of a dataset as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tools.dataset_checks.findings import CHECKS, Report

OFFENDERS = 3


def print_summary(report: Report, console: Console) -> None:
    """Prints how much was checked, and what was found with the first offenders."""
    console.print(_counts(report))
    if report.findings:
        console.print(_findings(report))
    for remark in report.remarks:
        console.print(remark, markup=False, highlight=False, soft_wrap=True)
    problems = len(report.problems)
    verdict = f'{problems} problem(s)' if problems else 'No problems'
    notes = len(report.findings) - problems
    verdict += f', {notes} note(s)' if notes else ''
    console.print(verdict, markup=False, highlight=False)


def _counts(report: Report) -> Table:
    table = Table(title='Checked', title_justify='left')
    counts = report.counts.values()
    columns = {
        'images': [one.images for one in counts],
        'opened': [one.checked for one in counts],
        'labels': [one.labels for one in counts],
        'people': [one.people for one in counts],
        'left out': [len(one.left_out) for one in counts],
    }
    used = {name: values for name, values in columns.items() if name == 'images' or any(values)}
    table.add_column('data')
    for name in used:
        table.add_column(name, justify='right')
    table.add_column('root', overflow='fold')
    for row, (source, one) in enumerate(report.counts.items()):
        table.add_row(source, *(str(values[row]) for values in used.values()), Text(one.root))
    return table


def _findings(report: Report) -> Table:
    table = Table(title='Found', title_justify='left', show_lines=True)
    table.add_column('check', ratio=2)
    table.add_column('count', justify='right')
    table.add_column('first offenders', overflow='fold', ratio=5)
    for check, amount in report.totals().items():
        title = CHECKS[check].title
        first = [str(one) for one in report.of(check)[:OFFENDERS]]
        if amount > OFFENDERS:
            first.append(f'and {amount - OFFENDERS} more')
        table.add_row(
            Text(f'note: {title}' if CHECKS[check].note else title),
            str(amount),
            Text('\n'.join(first)),
            style='dim' if CHECKS[check].note else None,
        )
    return table
