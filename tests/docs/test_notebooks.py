"""The notebooks run without an error, and what is committed of them is what they give."""

import copy
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('ipykernel')
pytest.importorskip('nbclient')  # brings nbformat

import nbformat

from .notebooks import FOLDER, METADATA, run

NEEDS = {
    'own-dataset': ['mmseg'],
    'transformers': ['mmseg', 'transformers'],
    'tune': ['mmseg', 'optuna'],
}
NOTEBOOKS = sorted(FOLDER.glob('*.ipynb'))
LARGEST = 400_000  # bytes

INSIDE = {
    'own-dataset': """
        assert runner.iter == runner.max_iters and checkpoint.is_file()
        assert entry['mIoU'] > 75
        stages = segmenter.model.backbone.token_merging.stages
        assert all(stage.kv is not None for stage in stages), 'weighted was not applied'
        assert labels.shape == truth.shape and set(np.unique(labels)) <= {0, 1, 2, 3}
        assert (labels == truth).mean() > 0.9
        assert (labels[truth > 0] == truth[truth > 0]).mean() > 0.75, 'it finds ground alone'
        """,
    'transformers': """
        assert (predict(model) == untouched).all(), 'merging is still there'
        assert not hasattr(model.config, 'token_merging')
        assert type(model) is type(again) is SegformerForSemanticSegmentation
        assert (untouched[truth > 0] == truth[truth > 0]).mean() > 0.75, 'it finds ground alone'
        assert (predicted['untouched'] == untouched).all()
        assert (predicted['none'] != untouched).mean() < 1e-4
        changed = {name: (each != untouched).mean() for name, each in predicted.items()}
        assert 0 < changed['weighted'] < changed['hq'] and 0 < changed['fast'] < 0.1
        assert maps.share_changed < 0.01 and maps.num_stages == 4
        assert again.config.token_merging['preset'] == 'weighted'
        assert (predict(again) == predicted['weighted']).all()
        """,
    'tune': """
        from segformer_plusplus.inference.configs import load_config
        from segformer_plusplus.token_merging import build_token_merging

        assert len(result.points) == 12 and result.images == check.images == 2
        assert best.drop <= 0.05 and check.drop <= 0.075
        written = load_config(result.files['config'])
        assert [*written.model.backbone.num_layers] == [1, 1, 1, 1]
        assert repr(build_token_merging(written.model.backbone.token_merging)) == repr(
            build_token_merging(best.token_merging)
        )
        assert repr(tuned.model.backbone.token_merging) == repr(
            build_token_merging(best.token_merging)
        )
        assert [row.name for row in rows][:2] == ['none', 'hq'] and rows[0].values['changed'] == 0
        assert all(0 < row.values['changed'] < 5 for row in rows[1:])
        assert (predicted == labels).mean() > 0.85 and (merged != predicted).mean() < 0.005
        """,
}
"""What holds at the end, among the names of the notebook."""


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def kinds(notebook: nbformat.NotebookNode) -> dict[str, list[str]]:
    """The kinds of the outputs of every cell of code, by its id."""
    return {
        cell.id: [
            f'{each.output_type} {each.get("name") or " ".join(sorted(each.get("data", {})))}'
            for each in cell.outputs
        ]
        for cell in notebook.cells
        if cell.cell_type == 'code'
    }


def said(notebook: nbformat.NotebookNode) -> str:
    """What a notebook printed, without colours."""
    cells = (cell for cell in notebook.cells if cell.cell_type == 'code')
    text = ''.join(each.get('text', '') for cell in cells for each in cell.outputs)
    return re.sub(r'\x1b\[[\d;]*m', '', text)


def check_said(name: str, text: str) -> None:
    """What a reader learns is there, of the notebook as it is committed and as it ran."""
    if name == 'own-dataset':
        losses = [float(each) for each in re.findall(r'loss ([\d.]+)', text)]
        assert losses[-1] < 0.3 * losses[0]
        rows = re.findall(r'│(\w+) *│ *([\d.]+) │ *\S+ │ *[\d.]+ │ *([\d.]+) │', text)
        assert [row[0] for row in rows] == ['none', 'hq', 'fast', 'weighted']
        assert all(abs(float(row[1]) - float(rows[0][1])) < 2 for row in rows)
        assert [float(row[2]) > 0 for row in rows] == [False, True, True, True]
    elif name == 'transformers':
        rows = re.findall(r'^(\w+) +([\d.]+) +([\d.]+) +(\d+) +([\d.]+)$', text, re.MULTILINE)
        assert [row[0] for row in rows] == ['untouched', 'none', 'weighted', 'hq', 'fast']
        assert all(float(row[2]) > 90 for row in rows)
        assert 'stage 1: 256 tokens, 80% merged away\nstage 2: 256 tokens, 50%' in text
        assert 'the same labels: True\n' in text and 'the first labels: True\n' in text
    else:
        assert re.search(r"^_base_ = '../small.py'\nmodel = dict\(.*token_merging=", text, re.M)
        rows = re.findall(r'^([\w-]+) +([\d.]+) +(\d+) +([\d.]+)$', text, re.MULTILINE)
        assert [row[0] for row in rows] == 'none hq fast 2x2 weighted weighted-fast'.split()
        assert re.search(r'the winner there: 0\.0\d+ % changed, speed-up \d', text)


def test_all_are_here():
    assert [path.stem for path in NOTEBOOKS] == sorted(NEEDS) == sorted(INSIDE)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed(path):
    """Small, run from top to bottom, and without a trace of where."""
    text, notebook = path.read_text(encoding='utf-8'), read(path)
    assert len(text.encode()) < LARGEST
    assert notebook.metadata == METADATA
    assert [c.id for c in notebook.cells] == [
        f'{path.stem}-{number:02}' for number in range(1, len(notebook.cells) + 1)
    ]
    assert all(cell.metadata == {} for cell in notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    without_pictures = re.sub(r'"image/png": "[^"]*"', '', text)
    for trace in ('/home/', '/root', '/tmp', '/Users/', '/usr/', 'site-packages', ':\\\\'):
        assert trace not in without_pictures, trace
    outputs = [each for cell in code for each in cell.outputs]
    assert not any(each.output_type == 'error' for each in outputs)
    assert not any(each.get('name') == 'stderr' for each in outputs), 'a warning'
    for cell in code:
        shows = re.search(
            r'^ *print\(|plt\.subplots|IPython\.display\.Image|^%%', cell.source, re.M
        )
        assert bool(cell.outputs) == bool(shows), cell.id
    check_said(path.stem, said(notebook))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    for needed in NEEDS[path.stem]:
        pytest.importorskip(needed)
    committed = read(path)
    notebook = copy.deepcopy(committed)
    lines = '\n'.join(line[8:] for line in INSIDE[path.stem].splitlines())
    notebook.cells.append(nbformat.v4.new_code_cell(lines, id='inside'))
    run(notebook, tmp_path)
    notebook.cells.pop()
    assert kinds(notebook) == kinds(committed)
    check_said(path.stem, said(notebook))


@pytest.mark.skipif(importlib.util.find_spec('ruff') is None, reason='ruff is not installed')
@pytest.mark.parametrize('command', [['check'], ['format', '--check']], ids=['check', 'format'])
def test_style(command):
    done = subprocess.run(
        [sys.executable, '-m', 'ruff', *command, str(FOLDER)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
