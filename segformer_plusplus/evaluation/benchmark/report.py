"""Writes what a benchmark says on the terminal: tables, and from which size on merging pays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ...token_merging import BASELINE
from ..plots import Run, group_runs
from ..results import MEGABYTES, MEMORY, SPEED_UP, SPREAD, Column, ResultsTable, Row, spread
from ..timing import name_threads
from .comparison import BLOCKS, COMPILED, GRAPH


def run_title(run: Run, dtype: str, device: str) -> str:
    """Returns '1 x 3 x 512 x 512, 2 threads, float32 on cpu'."""
    height, width = run['shape']
    size = f'{run["batch_size"]} x 3 x {height} x {width}'
    return f'{size}, {name_threads(run["threads"])}, {dtype} on {device}'


def _counted(name: str, unit: float) -> Callable[[Row, Row], float | None]:
    return lambda row, _: row.more[name] / unit if row.more.get(name) is not None else None


def _rate(row: Row, baseline: Row) -> str | None:
    if 'gflops_per_second' not in row.more:
        return None
    return f'{row.more["gflops_per_second"]:.0f} ({row.more["share_of_matrix_products"]:.0%})'


def _images_per_second(row: Row, baseline: Row) -> float | None:
    return row.more['load']['images_per_second'] if 'load' in row.more else None


def _latencies(row: Row, baseline: Row) -> str | None:
    if 'load' not in row.more:
        return None
    load = row.more['load']
    return f'{1e3 * load["p50_seconds"]:.0f}, {1e3 * load["p99_seconds"]:.0f}'


COLUMNS = (
    SPREAD,
    SPEED_UP,
    Column('images/s', _images_per_second, 1, drop_if_empty=True),
    Column('p50, p99 ms', _latencies, drop_if_empty=True),
    Column('M param', _counted('parameters', 1e6), 1, drop_if_empty=True),
    Column('GFLOP', _counted('gflops', 1), 1, drop_if_empty=True),
    MEMORY,
    MEGABYTES,
    Column('process MiB', _counted('process_bytes', 2**20), 0, drop_if_empty=True),
    Column('kernels', _counted('kernels', 1), 0, drop_if_empty=True),
    Column('GFLOP/s', _rate, drop_if_empty=True),
)


def result_table(run: Run, title: str) -> ResultsTable:
    """Returns the table of a run, a row for each model."""
    rows = [Row.from_json(result) for result in run['results']]
    return ResultsTable(rows, COLUMNS, head='model', title=title)


def notes(run: Run, training: bool) -> str:
    """Returns what the columns of the table mean, in a sentence."""
    results = run['results']
    counts = sum(len(each['load']['seconds']) for each in results[:1] if 'load' in each)
    parts = []
    if any('gflops' in each for each in results):
        beside = 'weights and optimizer state' if training else 'weights and input'
        parts += [f'a multiply-add is 2 FLOP; MiB: peak memory on top of {beside}']
    if counts:
        requests = results[0]['load']['requests']
        parts += [f'images/s, p50 and p99: of {counts} calls with {requests} in flight']
    if any('megabytes' in each for each in results):
        parts += ['process MiB: a process that loads the file and predicts, beyond its imports']
    return '; '.join(parts)


def stage_table(run: Run) -> ResultsTable:
    """Returns the medians of the stages, and their quartiles."""
    rows = [Row.from_json(result) for result in run['results'] if 'stages' in result]
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
    for name, about in run.get('files', {}).items():
        same = 'labels not compared: no row has its images, weights and strategy'
        if 'equal_labels' in about:
            same = f'{about["equal_labels"]:.3%} of the labels as {about["compared_with"]}'
        yield f'{name}: {about["precision"]} in {about["runtime"]}; {same}'
    yield from run.get('without_graph', {}).values()
    compiled = {name + COMPILED: each for name, each in run.get('compiled', {}).items()}
    blocks = {name + BLOCKS: each for name, each in run.get('blocks_compiled', {}).items()}
    for name, record in (compiled | blocks).items():
        if 'equal_labels' in record:
            kept = f'{record["equal_labels"]:.3%} of the labels as in eager mode'
        else:
            kept = f'results within {record["relative_error"]:.0e}'
        yield f'{name}: in {record["seconds"]:.0f} s; {kept}'
    rates = run.get('matrix_products_gflops_per_second', {})
    if rates:
        reached = ', '.join(f'{rate:.0f} GFLOP/s by {name}' for name, rate in rates.items())
        yield f'this machine multiplies matrices at {reached}'


def break_even_lines(runs: Sequence[Run], presets: Sequence[str]) -> Iterator[str]:
    """Yields, for every preset, the smallest shape from which on it is faster than 'none'.

    Only where several shapes were run with otherwise equal settings, 'none' among the models.
    """
    pairs = [(name + s, BASELINE + s) for s in ('', COMPILED, BLOCKS, GRAPH) for name in presets]
    for group in group_runs(runs):
        if len(group) < 2:
            continue
        where = f'batch {group[0]["batch_size"]}, {name_threads(group[0]["threads"])}'
        times = [{r['name']: r['median_seconds'] for r in run['results']} for run in group]
        for name, baseline in pairs:
            if name != baseline and all(name in each and baseline in each for each in times):
                faster = [each[name] < each[baseline] for each in times]
                yield f'{where}: {name} is faster than {baseline} {_from_where(group, faster)}'


def _from_where(group: Sequence[Run], faster: Sequence[bool]) -> str:
    slower = [index for index, value in enumerate(faster) if not value]
    first = slower[-1] + 1 if slower else 0
    if first == len(group):
        return 'at none of these sizes'
    height, width = group[first]['shape']
    return f'from {height}x{width} on' if first else f'at all of these sizes, from {height}x{width}'
