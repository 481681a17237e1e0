"""Tests the exit codes of tools/check_dataset.py, what it prints and what it writes."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools/check_dataset.py'
CONFIG = ROOT / 'configs/synthetic/segformer_mit-b0_hq_1xb2-demo_synthetic-cityscapes.py'
IMAGE = 'leftImg8bit/train/ashford/ashford_000000_000019_leftImg8bit.png'


main = runpy.run_path(str(TOOL))['main']


@pytest.fixture
def data(drawn, tmp_path):
    """Copies a drawn set to damage it."""
    return shutil.copytree(drawn('cityscapes'), tmp_path / 'data')


def options(data):
    splits = 'train', 'val', 'test'
    return ['--cfg-options', *(f'{one}_dataloader.dataset.data_root={data}' for one in splits)]


def test_clean_data(data, capsys):
    assert main([str(CONFIG), '--jobs', '1', *options(data)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == 'No problems'
    assert 'test: the same data as val, checked once' in captured.out
    assert 'Checking images' in captured.err


def test_problems(data, tmp_path, capsys):
    for path in sorted((data / 'leftImg8bit/train').rglob('*.png')):
        path.write_bytes(path.read_bytes()[:-200])
    argv = [str(CONFIG), '--json', str(tmp_path / 'out.json'), '--splits', 'train']
    argv += ['--fix-list', str(tmp_path / 'fix.txt')]
    assert main([*argv, *options(data)]) == 1
    out = capsys.readouterr().out
    assert 'image unreadable' in out and 'and 1 more' in out
    assert '4 problem(s)' in out.splitlines()
    assert f'Wrote {tmp_path / "fix.train.txt"}' in out
    report = json.loads((tmp_path / 'out.json').read_text())
    assert report['problems'] == 4 and list(report['sources']) == ['train']
    unreadable = report['checks']['image_unreadable']
    assert unreadable['count'] == 4 and not unreadable['note']
    assert unreadable['findings'][0]['path'] == IMAGE
    listed = (tmp_path / 'fix.train.txt').read_text().splitlines()
    assert [line for line in listed if not line.startswith('#')] == [
        one['path'] for one in unreadable['findings']
    ]


def test_notes_alone_are_no_problem(data, capsys):
    (data / IMAGE).rename((data / IMAGE).with_name('stray.png'))
    assert main([str(CONFIG), *options(data)]) == 0
    out = capsys.readouterr().out
    assert 'note:' in out
    assert out.splitlines()[-1] == 'No problems, 2 note(s)'


def test_content_is_compared_unless_told_not_to(data, capsys):
    (data / 'leftImg8bit/val/elmburg/elmburg_000000_000019_leftImg8bit.png').write_bytes(
        (data / IMAGE).read_bytes()
    )
    assert main([str(CONFIG), *options(data)]) == 1
    assert 'same content as val: ' in ' '.join(re.sub('[│┃]', ' ', capsys.readouterr().out).split())
    assert main([str(CONFIG), '--no-hash', *options(data)]) == 0
    assert main([str(CONFIG), '--limit', '1', '--splits', 'val', *options(data)]) == 0


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['no/such/config.py'], 'error: config not found: no/such/config.py'),
        ([CONFIG, '--limit', '0'], 'error: limit=0 is not allowed: a whole number, 1 or more'),
        (
            [CONFIG, *options('/no/where')],
            'error: data not found: /no/where (train_dataloader.dataset.data_root); expected are '
            'images /no/where/leftImg8bit/train/**/*_leftImg8bit.png, labels '
            '/no/where/gtFine/train/**/*_gtFine_labelTrainIds.png; see docs/data.md, or change it '
            'with --cfg-options train_dataloader.dataset.data_root=...',
        ),
    ],
)
def test_what_cannot_be_checked(argv, message, capsys):
    assert main([str(one) for one in argv]) == 2
    assert [line for line in capsys.readouterr().err.splitlines() if 'error' in line] == [message]


def test_as_a_user_starts_it(tmp_path):
    argv = [sys.executable, str(TOOL), '--help']
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '--fix-list' in done.stdout
