"""The tables of the pages hold what the JSON files beside them hold."""

import itertools
import json
import re
import statistics
from importlib import import_module
from pathlib import Path

import pytest

from segformer_plusplus.evaluation.results import Row
from segformer_plusplus.token_merging import PRESETS, build_token_merging

DOCS = Path(__file__).resolve().parents[2] / 'docs'


def rows_of(page: str) -> list[list[str]]:
    lines = (DOCS / page).read_text().splitlines()
    tables = [line for line in lines if line.startswith('| ')]
    return [[cell.strip() for cell in line.split('|')[1:-1]] for line in tables]


def test_patching():
    rows = {(row[0].lower(), row[1]): row[2:] for row in rows_of('patching.md') if len(row) == 7}
    for run in json.loads((DOCS / 'patching.json').read_text())['runs']:
        cells = rows[run['library'], 'x'.join(map(str, run['shape']))]
        for cell, result in zip(cells, run['results'], strict=True):
            milliseconds, _, speed_up = cell.partition(' ')
            assert milliseconds == f'{1e3 * result["median_seconds"]:.0f}'
            assert speed_up in ('', f'({result["speed_up"]:.2f})')


def benchmarked(name: str) -> dict[str, dict]:
    results = json.loads((DOCS / f'deployment/{name}.json').read_text())['results']
    return {each['name'].removesuffix(', onnxruntime'): each for each in results}


def milliseconds(result: dict) -> str:
    return f'{1e3 * result["median_seconds"]:.0f}'


FILES = {'PyTorch': '', 'OpenVINO': '.xml', 'ONNX Runtime': '.onnx'}


def file_of(row: dict[str, str]) -> str:
    """The name of what was measured, as a row of the page says it."""
    suffix = FILES[row['runtime']]
    return row['preset'] + (suffix and f'_{row["precision"]}{suffix}')


def test_deployment():
    (table,) = (each for each in tables_of(DOCS / 'deployment.md') if 'process MiB' in each[0])
    measured = measured_rows('camvid_b0_fidelity', 'deployment')
    times = {number: benchmarked(f'camvid_b0_{number}') for number in ('1_thread', '2_threads')}
    assert {file_of(row) for row in table} == set(measured) and len(table) == len(measured)
    for row in table:
        name = file_of(row)
        assert row['mIoU'] == f'{measured[name].values["mIoU"]:.2f}'
        assert row['changed %'] == f'{measured[name].values["changed"]:.2f}'
        result = times['1_thread'][name]
        assert row['ms, 1 thread'] == milliseconds(result)
        if row['runtime'] == 'PyTorch':
            assert row['ms, 2 threads'] == row['MB'] == row['process MiB'] == '-'
        else:
            assert row['ms, 2 threads'] == milliseconds(times['2_threads'][name])
            assert row['MB'] == f'{result["megabytes"]:.1f}'
            assert row['process MiB'] == f'{result["process_bytes"] / 2**20:.0f}'


def test_any_size():
    (table,) = (each for each in tables_of(DOCS / 'deployment.md') if 'any size' in each[0])
    measured = benchmarked('camvid_b0_any_size')
    cells = 0
    for row in table:
        for column, kind in (('one size', '1024'), ('any size', 'any')):
            found = milliseconds(measured[f'{row["preset"]}_{kind}{FILES[row["runtime"]]}'])
            assert row[column] == found
            cells += 1
    assert cells == 12


COLUMNS = {
    'mIoU': ('mIoU', 2),
    'mIoU fine': ('mIoU_fine', 2),
    'changed %': ('changed', 3),
    'PCK@0.1': ('PCK@0.1', 2),
    'PCK@0.05': ('PCK@0.05', 2),
    'tPCK@0.2': ('tPCK@0.2', 2),
    'shift px': ('shift', 3),
}


def tables_of(path: Path) -> list[list[dict[str, str]]]:
    """Every table as its rows by column."""
    tables, lines = [], path.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith('| ---'):
            names = [cell.strip() for cell in lines[number - 1].split('|')[1:-1]]
            body = itertools.takewhile(lambda each: each.startswith('|'), lines[number + 1 :])
            cells = ([cell.strip() for cell in each.split('|')[1:-1]] for each in body)
            tables.append([dict(zip(names, each, strict=True)) for each in cells])
    return tables


def measured_rows(record: str, folder: str = 'fidelity') -> dict[str, Row]:
    rows = json.loads((DOCS / folder / f'{record}.json').read_text())['rows']
    return {row.name: row for row in map(Row.from_json, rows)}


def check_fidelity(table: list[dict[str, str]], record: str) -> None:
    measured = measured_rows(record)
    assert table[0]['preset'] == 'none' and len(table) > 4
    for cells in table:
        row = measured[cells['preset']]
        for name, (key, digits) in COLUMNS.items():
            if name in cells:
                assert cells[name] == f'{row.values[key]:.{digits}f}'
        assert cells['speed-up'] == f'{row.speed_up:.2f}'
        assert float(cells['ms']) == pytest.approx(1e3 * row.median_seconds, abs=0.5)


RECORDS = [
    *('camvid_b0_960x720', 'camvid_b0_480x360', 'camvid_b0_1920x1440'),
    *('camvid_b2_960x720', 'lsp_b0_256x192', 'lsp_b0_640x480'),
    *('left_out_camvid_b0_960x720', 'demo_b0_1024x2048', 'demo_b2_1024x2048'),
    *('b0_1024x2048', 'b0_512x1024', 'b2_1024x2048', 'pose_b0_640x480', 'left_out_b0_512x1024'),
]
STAGES = {
    'B0, CamVid': 'camvid_b0_stages',
    'B2, CamVid': 'camvid_b2_stages',
    'B2, drawn': 'demo_b2_stages',
}


@pytest.mark.parametrize('number, record', [*enumerate(RECORDS)])
def test_fidelity(number, record):
    tables = [t for t in tables_of(DOCS / 'fidelity.md') if 'preset' in t[0] and 'ms' in t[0]]
    assert len(tables) == len(RECORDS)
    check_fidelity(tables[number], record)


def test_merging_in_one_stage():
    (table,) = (t for t in tables_of(DOCS / 'fidelity.md') if 'one stage alone' in t[0])
    rows = [(cells.pop('model'), cells.pop('one stage alone')) for cells in table]
    assert rows == [*itertools.product(STAGES, ['proportional 90%', 'sampled 90%'])]
    measured = {model: measured_rows(record) for model, record in STAGES.items()}
    for (model, how), cells in zip(rows, table, strict=True):
        changed = {n: measured[model][f'{how}, stage {n}'].values['changed'] for n in range(1, 5)}
        assert cells == {f'stage {n}': f'{value:.3f}' for n, value in changed.items()}


def test_training_with_merging():
    (table,) = (t for t in tables_of(DOCS / 'fidelity.md') if 'trained with' in t[0])
    rows = json.loads((DOCS / 'fidelity/training/seeds.json').read_text())['rows']
    assert len(table) == 5 and len(rows) == 15
    for cells in table:
        key = cells['trained with'], cells['tested with']
        found = {r['seed']: r['mIoU'] for r in rows if (r['trained'], r['tested']) == key}
        for seed, measured in found.items():
            assert cells[f'seed {seed}'] == f'{measured:.2f}'
        assert cells['mean'] == f'{statistics.mean(found.values()):.2f}'
        assert cells['deviation'] == f'{statistics.stdev(found.values()):.2f}'


def test_adaptation():
    (table,) = (t for t in tables_of(DOCS / 'fidelity.md') if 'adapted' in t[0])
    rows = json.loads((DOCS / 'fidelity/training/adaptation.json').read_text())['rows']
    assert [cells['strategy'] for cells in table] == [row['preset'] for row in rows]
    before = measured_rows('camvid_b0_480x360')
    for cells, row in zip(table, rows, strict=True):
        assert cells['as trained'] == f'{before[row["preset"]].values["mIoU"]:.2f}'
        assert cells['adapted'] == f'{row["mIoU"]:.2f}'


def test_the_readmes_table_is_that_of_the_page():
    (table,) = (t for t in tables_of(DOCS.parent / 'README.md') if 'changed %' in t[0])
    check_fidelity(table, 'camvid_b0_960x720')


def test_the_first_pages_figures():
    measured = measured_rows('camvid_b0_960x720')
    text = ' '.join((DOCS / 'index.md').read_text().split())
    for name, digits in (('weighted', 2), ('fast', 1)):
        said = re.search(rf'`{name}`(?: is)? ([\d.]+) times .*?([\d.]+) %', text)
        assert said[1] == f'{measured[name].speed_up:.2f}'
        assert said[2] == f'{measured[name].values["changed"]:.{digits}f}'
    runs = json.loads((DOCS / 'benchmarks/b0_1024.json').read_text())['runs']
    (ours,) = (each for each in runs[0]['results'] if each['name'] == 'none')
    assert f"{ours['speed_up']:.0f} times as fast as mmseg's own modules" in text


@pytest.mark.filterwarnings('ignore:.*weigh_keys is:FutureWarning')
def test_presets_are_as_they_were_measured():
    """Whoever changes a preset measures it anew."""
    everywhere = set()
    for path in sorted((DOCS / 'fidelity').glob('*.json')):
        rows = measured_rows(path.stem)
        measured = [name for name in PRESETS if name in rows]
        # what our presets were before stands there under names of its own
        assert len(rows) > 4 and {'none', 'hq', 'fast'} <= set(measured)
        everywhere.update(measured)
        for name in measured:
            recorded = build_token_merging(rows[name].token_merging)
            assert repr(recorded) == repr(build_token_merging(name))
    assert everywhere == set(PRESETS)


def test_kept_activations():
    record = json.loads((DOCS / 'gpu/activations.json').read_text())
    assert (record['arch'], record['batch_size'], record['shape']) == ('b5', 4, [1024, 1024])
    expected = [
        [each['dtype'], each['preset'], *(f'{size / 1e9:.1f}' for size in each['bytes'].values())]
        for each in record['rows']
    ]
    rows = rows_of('gpu.md')
    start = rows.index(expected[0])
    assert rows[start : start + len(expected)] == expected


def test_budgets_of_a_block():
    """The page says what the test of them allows."""
    budget = import_module('mit.test_budget')
    [row] = [row[1:] for row in rows_of('gpu.md') if row[0] == 'with the kernels']
    presets = ['none', '2x2', 'hq', 'weighted']
    assert row == [str(budget.BLOCK[each]) for each in presets] + [str(2 * budget.LEVELS + 2)]


@pytest.mark.parametrize(
    'name, row',
    [
        ('camvid_b0_960x720', 'B0, CamVid 960x720, 101 images'),
        ('camvid_b2_960x720', 'B2, CamVid 960x720, 101 images'),
        ('demo_b2_1024x2048', 'B2, drawn scenes 1024x2048, 8 images'),
    ],
)
def test_shared_plans(name, row):
    record = json.loads((DOCS / f'gpu/shares_{name}.json').read_text())
    rows = {each['name']: Row.from_json(each) for each in record['rows']}
    cells = next(each[1:] for each in rows_of('gpu.md') if each[0] == row)
    shares = ['weighted', 'weighted, share 2', 'weighted, share 4']
    assert cells == [f'{rows[each].values["changed"]:.3f}' for each in shares]
    for name in shares[1:]:
        stages = [dict(stage) for stage in rows[name].token_merging]
        assert {stage.pop('share') for stage in stages} == {int(name[-1])}
        assert stages == PRESETS['weighted']['stages']
    assert row.endswith(record['caption'].partition(';')[0])
