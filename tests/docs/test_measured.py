"""The tables of patching.md and deployment.md hold what the JSON files beside them hold."""

import json
from pathlib import Path

import pytest

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


@pytest.mark.parametrize('size', [512, 1024])
def test_deployment(size):
    rows = {row[0]: row[1:] for row in rows_of('deployment.md') if len(row) == 5}
    (run,) = json.loads((DOCS / f'deployment/b0_{size}.json').read_text())['runs']
    columns = ['PyTorch', 'torch.compile', 'ONNX Runtime', 'OpenVINO']
    assert rows[''] == columns
    for result in run['results']:
        way, preset = result['way'], result['token_merging']
        cell = rows[f'{size}x{size}, {preset}'][columns.index(way)]
        assert cell.split()[0] == f'{1e3 * result["median_seconds"]:.0f}'
    assert len(run['results']) == 14
