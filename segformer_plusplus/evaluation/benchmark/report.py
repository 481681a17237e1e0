"""What a benchmark says on the terminal: tables, and from which size on merging pays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ...token_merging import BASELINE
from ..results import MEMORY, SPEED_UP, SPREAD, Column, ResultsTable, Row, spread
from .comparison import COMPILED

Run = Mapping[str, Any]


def run_title(run: Run, dtype: str, device: str) -> str:
    """Returns '1 x 3 x 512 x 512, 2 threads, float32 on cpu'."""
    height, width = run['shape']
    size = f'{run["batch_size"]} x 3 x {height} x {width}'
    return f'{size}, {_threads(run["threads"])}, {dtype} on {device}'


def _counted(name: str, unit: float) -> Callable[[Row, Row], float | None]:
    return lambda row, _: row.more[name] / unit if name in row.more else None


def _rate(row: Row, baseline: Row) -> str | None:
    if 'gflops_per_second' not in row.more:
        return None
    return f'{row.more["gflops_per_second"]:.0f} ({row.more["share_of_matrix_products"]:.0%})'


COLUMNS = (
    SPREAD,
    SPEED_UP,
    Column('M param', _counted('parameters', 1e6), 1),
    Column('GFLOP', _counted('gflops', 1), 1),
    MEMORY,
    Column('GFLOP/s', _rate, drop_if_empty=True),
)


def result_table(run: Run, title: str) -> ResultsTable:
    """Returns the table of a run, a row for each model."""
    rows = [Row.from_json(result) for result in run['results']]
    return ResultsTable(rows, COLUMNS, head='model', title=title)


def stage_table(run: Run) -> ResultsTable:
    """Returns the medians of the stages, and their quartiles."""
    rows = [Row.from_json(result) for result in run['results']]
    columns = [Column(stage, _stage(stage)) for stage in rows[0].more['stages']]
    return ResultsTable(rows, columns, 'model', 'ms (quartiles) of each part by itself')


def _stage(name: str) -> Callable[[Row, Row], str]:
    return lambda row, _: spread(row.more['stages'][name], row.more['stages_quartiles'][name])


def check_lines(run: Run) -> Iterator[str]:
    """Yields what was checked before anything was timed, one line each."""
    for name, error in run.get('relative_error_of_logits', {}).items():
        yield f'{name}: logits equal to ours within {error:.0e} of the largest one'
    for name, errors in run.get('relative_error_of_training_step', {}).items():
        parts = ', '.join(f'{what} within {error:.0e}' for what, error in errors.items())
        yield f'{name}: training step equal to ours: {parts}'
    for name, record in run.get('compiled', {}).items():
        same = record.get('equal_labels')
        kept = (
            f'results within {record["relative_error"]:.0e}'
            if same is None
            else f'{same:.3%} of the labels as in eager mode'
        )
        yield f'{name}{COMPILED}: in {record["seconds"]:.0f} s; {kept}'
    rates = run.get('matrix_products_gflops_per_second', {})
    if rates:
        reached = ', '.join(f'{rate:.0f} GFLOP/s by {name}' for name, rate in rates.items())
        yield f'this machine multiplies matrices at {reached}'


def break_even_lines(runs: Sequence[Run], presets: Sequence[str]) -> Iterator[str]:
    """Yields, for every preset, the smallest shape from which on it is faster than 'none'.

    Only where several shapes were run with otherwise equal settings, 'none' among the models.

    Args:
        runs: all of them.
        presets: names of the rows that are presets.
    """

    def setting(run: Run) -> tuple[int, int]:
        return run['batch_size'], run['threads']

    for (batch_size, threads), group in groupby(sorted(runs, key=setting), key=setting):
        by_size = sorted(group, key=lambda run: run['shape'][0] * run['shape'][1])
        if len(by_size) < 2:
            continue
        for suffix in ('', COMPILED):
            for preset in presets:
                faster = [_is_faster(run, preset + suffix, BASELINE + suffix) for run in by_size]
                if preset == BASELINE or None in faster:
                    continue
                yield (
                    f'batch {batch_size}, {_threads(threads)}: {preset}{suffix} is faster than '
                    f'{BASELINE}{suffix} {_from_where(by_size, faster)}'
                )


def _from_where(by_size: Sequence[Run], faster: Sequence[bool | None]) -> str:
    slower = [index for index, value in enumerate(faster) if not value]
    first = slower[-1] + 1 if slower else 0
    if first == len(by_size):
        return 'at none of these sizes'
    height, width = by_size[first]['shape']
    return f'from {height}x{width} on' if first else f'at all of these sizes, from {height}x{width}'


def _threads(count: int) -> str:
    return f'{count} thread' + 's' * (count > 1)


def _is_faster(run: Run, name: str, than: str) -> bool | None:
    seconds = {result['name']: result['median_seconds'] for result in run['results']}
    return seconds[name] < seconds[than] if name in seconds and than in seconds else None
