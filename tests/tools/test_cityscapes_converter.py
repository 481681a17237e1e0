"""Tests Cityscapes' label converter with a stand-in for the table of `cityscapesscripts`."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from segformer_plusplus.cli.guard import INTERRUPTED
from tools.dataset_converters import cityscapes as tool

TOOL = Path(tool.__file__)
TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Cityscapes' ids of the classes with the train ids 0 to 18; of 0 to 33 the others are ignored."""

STAND_IN = f"""
from collections import namedtuple
Label = namedtuple('Label', 'name id trainId')
trained = {TRAINED}
labels = [Label(str(i), i, trained.index(i) if i in trained else 255) for i in range(34)]
labels.append(Label('license plate', -1, -1))
"""


@pytest.fixture
def table(monkeypatch):
    """Puts the stand-in in place of the package."""
    names: dict = {}
    exec(STAND_IN, names)
    module = SimpleNamespace(labels=names['labels'])
    for name in ('cityscapesscripts', 'cityscapesscripts.helpers'):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, 'cityscapesscripts.helpers.labels', module)


@pytest.fixture
def root(tmp_path):
    """Writes three label maps with all 34 ids in them."""
    ids = np.arange(34, dtype=np.uint8).repeat(2).reshape(4, 17)
    for split, city in (('train', 'aachen'), ('train', 'bochum'), ('val', 'lindau')):
        folder = tmp_path / 'gtFine' / split / city
        folder.mkdir(parents=True)
        Image.fromarray(ids).save(folder / f'{city}_000000_000019_gtFine_labelIds.png')
    return tmp_path


def converted(root):
    return sorted(root.rglob('*labelTrainIds*'))


def first(root):
    return root / 'gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png'


def run(root, *more):
    return tool.main([str(root), '--jobs', '1', *more])


def test_every_id(root, table, capsys):
    assert run(root) == 0
    captured = capsys.readouterr()
    assert captured.out == 'Converted 3 label map(s), 0 were there already\n'
    assert 'Converting labels' in captured.err
    expected = np.full(34, 255)
    expected[list(TRAINED)] = range(19)
    assert len(converted(root)) == 3
    for path in converted(root):
        image = Image.open(path)
        assert image.mode == 'L' and path.name.endswith('_gtFine_labelTrainIds.png')
        np.testing.assert_array_equal(np.asarray(image), expected.repeat(2).reshape(4, 17))


def test_what_is_there_is_kept_unless_told(root, table, capsys):
    run(root)
    target = converted(root)[0]
    whole = target.read_bytes()
    target.write_bytes(b'mine')
    assert run(root) == 0
    assert target.read_bytes() == b'mine'
    assert 'Converted 0 label map(s), 3 were there already' in capsys.readouterr().out
    assert run(root, '--overwrite') == 0
    assert target.read_bytes() == whole


def refused(capsys, *argv):
    capsys.readouterr()
    assert run(*argv) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if 'error: ' in line]
    return line


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (
            lambda path: Image.fromarray(np.full((4, 17), 34, np.uint8)).save(path),
            'has the id 34, which is none of',
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), 'cannot be read: '),
        (lambda path: Image.new('RGB', (17, 4)).save(path), "has pixels of kind 'RGB'"),
    ],
)
def test_bad_labels_are_named(root, table, capsys, damage, message):
    damage(first(root))
    assert f'{first(root)} {message}' in refused(capsys, root)
    assert not first(root).with_name(first(root).name.replace('Ids', 'TrainIds')).exists()


def test_no_labels(tmp_path, table, capsys):
    line = refused(capsys, tmp_path)
    assert 'gtFine/<split>/<city>/*_gtFine_labelIds.png' in line and 'docs/data.md' in line


def test_without_the_package(root, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'cityscapesscripts', None)
    line = refused(capsys, root)
    assert "pip install 'segformer-plusplus[cityscapes]'" in line
    assert converted(root) == []


@pytest.mark.parametrize('error', [OSError('no space'), KeyboardInterrupt()])
def test_interruption_leaves_no_half_file(root, table, monkeypatch, error):
    def stop(*_args):
        raise error

    monkeypatch.setattr(os, 'replace', stop)
    if isinstance(error, KeyboardInterrupt):
        assert run(root) == INTERRUPTED
    else:
        with pytest.raises(OSError, match='no space'):
            run(root)
    assert converted(root) == []
    names = [path.name for path in first(root).parent.iterdir()]
    assert names == [first(root).name]
    monkeypatch.undo()


def test_processes(root, tmp_path):
    package = tmp_path / 'packages/cityscapesscripts/helpers'
    package.mkdir(parents=True)
    (package / 'labels.py').write_text(STAND_IN)
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path / 'packages')}
    argv = [sys.executable, str(TOOL), str(root), '--jobs', '2']
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(converted(root)) == 3


def test_the_real_table_has_the_same_ids():
    labels = pytest.importorskip(
        'cityscapesscripts.helpers.labels', reason='cityscapesscripts is not installed'
    ).labels
    assert [label.id for label in labels if 0 <= label.trainId < 255] == list(TRAINED)
    assert tool.train_ids()[:34] == tuple(
        TRAINED.index(i) if i in TRAINED else 255 for i in range(34)
    )
