"""The tables of docs/benchmarks.md hold what the JSON files beside it hold."""

import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / 'docs'
TEXT = (DOCS / 'benchmarks.md').read_text()
NAMED = re.findall(r'<!-- (\w+\.json) -->', TEXT)


def cells(record):
    """One row of a table, as the tool prints it."""
    low, high = (1e3 * seconds for seconds in record['quartiles_seconds'])
    milliseconds = f'{1e3 * record["median_seconds"]:.0f} ({low:.0f}-{high:.0f})'
    memory = record.get('peak_memory_bytes')
    row = [record['name'], milliseconds, f'{record["speed_up"]:.2f}']
    row.append('-' if memory is None else f'{memory / 2**20:.0f}')
    if 'share_of_matrix_products' in record:
        row.append(f'{100 * record["share_of_matrix_products"]:.0f} %')
    return row + [f'{1e3 * seconds:.0f}' for seconds in record.get('stages', {}).values()]


def kinds(runs):
    """Rows of kinds of layers, a column for each run, in milliseconds of either way."""
    columns = [
        {**run['kinds'], 'all': [sum(way) for way in zip(*run['kinds'].values(), strict=True)]}
        for run in runs
    ]
    for kind in columns[0]:
        cells = (' / '.join(f'{1e3 * way:.0f}' for way in column[kind]) for column in columns)
        yield f'| {" | ".join([kind, *cells])} |'


def lines(name):
    """All rows of one file; of several runs, the conditions come first."""
    runs = json.loads((DOCS / 'benchmarks' / name).read_text())['runs']
    if 'kinds' in runs[0]:
        yield from kinds(runs)
        return
    for run in runs:
        where = 'x'.join(map(str, run['shape']))
        if len({(each['batch_size'], each['threads']) for each in runs}) > 1:
            where += f', batch {run["batch_size"]}, {run["threads"]} threads'
        for record in run['results']:
            yield '| ' + ' | '.join([where] * (len(runs) > 1) + cells(record)) + ' |'


def test_every_file_has_a_table():
    files = {path.name for path in (DOCS / 'benchmarks').glob('*.json')}
    assert files and files == set(NAMED)


@pytest.mark.parametrize('name', NAMED)
def test_tables(name):
    table = TEXT.split(f'<!-- {name} -->')[1].split('\n\n')[1].splitlines()
    assert table[2:] == list(lines(name))
