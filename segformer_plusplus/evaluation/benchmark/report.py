"""What a benchmark says on the terminal: tables, and from which size on merging pays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.table import Table

from .comparison import COMPILED

BASELINE = 'none'

Run = Mapping[str, Any]


def run_title(run: Run, dtype: str, device: str) -> str:
    """'1 x 3 x 512 x 512, 2 threads, float32 on cpu'."""
    height, width = run['shape']
    size = f'{run["batch_size"]} x 3 x {height} x {width}'
    return f'{size}, {_threads(run["threads"])}, {dtype} on {device}'


def result_table(run: Run, title: str, caption: str) -> Table:
    """One row a model; fits into 80 columns."""
    results = run['results']
    table = _table(title, caption, ['ms (quartiles)', 'speed', 'M param', 'GFLOP', 'MiB'])
    has_rates = any('gflops_per_second' in result for result in results)
    if has_rates:
        table.add_column('GFLOP/s', justify='right')
    for result in results:
        memory = result.get('peak_memory_bytes')
        cells = [
            spread(result['median_seconds'], result['quartiles_seconds']),
            f'{result["speed_up"]:.2f}',
            _number(result.get('parameters'), 1e6, 1),
            _number(result.get('gflops'), 1, 1),
            _number(memory, 2**20, 0),
        ]
        if has_rates:
            share = result['share_of_matrix_products']
            cells.append(f'{result["gflops_per_second"]:.0f} ({share:.0%})')
        table.add_row(result['name'], *cells)
    return table


def stage_table(run: Run) -> Table:
    """The medians of the stages, and their quartiles."""
    stages = list(run['results'][0]['stages'])
    table = _table('', 'ms (quartiles) of each part by itself', stages)
    for result in run['results']:
        cells = [
            spread(seconds, result['stages_quartiles'][stage])
            for stage, seconds in result['stages'].items()
        ]
        table.add_row(result['name'], *cells)
    return table


def check_lines(run: Run) -> Iterator[str]:
    """What was checked before anything was timed, one line each."""
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
    """For every preset: the smallest shape from which on it is faster than 'none'.

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


def spread(median: float, quartiles: Sequence[float]) -> str:
    """Seconds -> '402 (395-410)' in ms, with three digits of the median."""
    digits = 0 if median >= 0.1 else 1 if median >= 0.01 else 2
    low, high = (f'{1e3 * value:.{digits}f}' for value in quartiles)
    return f'{1e3 * median:.{digits}f} ({low}-{high})'


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


def _table(title: str, caption: str, columns: Sequence[str]) -> Table:
    table = Table(title=title or None, caption=caption)
    table.add_column('model', overflow='fold')
    for column in columns:
        table.add_column(column, justify='right', no_wrap=True)
    return table


def _number(value: float | None, unit: float, digits: int) -> str:
    return '-' if value is None else f'{value / unit:.{digits}f}'
