"""The table of a demo: as its page has it, and from the record of the run that made it."""

import json

import pytest

from tools.paper_tables.paper import PAPER_TABLES
from tools.paper_tables.plan import BENCHMARK, Settings
from tools.paper_tables.report import Report
from tools.paper_tables.tables import TABLES

from .fakes import ROOT

KEYS = {'miou': 'mIoU', 'pck_0.1': 'PCK@0.1', 'pck_0.05': 'PCK@0.05'}


def report_of(name: str, rows: list[dict], environment: dict) -> Report:
    """A report of rows in the form of docs/demo/*.json."""
    where = {'environment': environment, 'device': 'cpu'}
    records = {
        row['strategy']: {**where, 'result': {KEYS[k]: v for k, v in row['accuracy'].items()}}
        for row in rows
    }
    times = {
        row['strategy']: {
            'speed_up': row['speed_up'],
            'median_seconds': row['milliseconds'] / 1e3,
            'quartiles_seconds': None,
            'peak_memory_bytes': 0,
        }
        for row in rows
    }
    asked = {'batch_size': 1, 'dtype': 'float32', 'rounds': 5, 'device': 'x'}
    records[BENCHMARK] = {**where, 'result': {'rows': times}, 'fingerprint': {'asked': asked}}
    shown = tuple(row['strategy'] for row in rows)
    return Report(TABLES[name], Settings('synthetic', device='cpu'), shown, records, {})


@pytest.mark.parametrize(
    'name, record', [('demo-seg', 'segmentation.json'), ('demo-pose', 'pose.json')]
)
def test_the_page_shows_the_table_that_the_demo_wrote(name, record):
    content = json.loads((ROOT / 'docs/demo' / record).read_text())
    report = report_of(name, content['rows'], content['environment'])
    assert report.results.caption == content['caption']
    assert report.results.to_markdown().strip() in (ROOT / 'docs/demos.md').read_text()


def test_changes_are_those_of_the_numbers_shown():
    values = {'none': 70.004, 'hq': 70.0035, 'fast': 69.996, '2x2': 69.994}
    rows = [
        dict(strategy=name, accuracy={'miou': value}, speed_up=1.0, milliseconds=9)
        for name, value in values.items()
    ]
    report = report_of('demo-seg', rows, {'cpu': 'x', 'versions': {'torch': 'torch 2'}})
    assert [cells[2] for cells in report.results.cells] == ['+0.00', '+0.00', '+0.00', '-0.01']
    assert report.results.cells[3][3:5] == ['1.00', '9']


def test_paper_rows_have_one_set_of_columns():
    for rows in PAPER_TABLES.values():
        assert set(rows) >= {'none', 'hq', 'fast', '2x2'}
        assert len({tuple(row) for row in rows.values()}) == 1
        assert rows['none']['speed_up'] == 1.0
