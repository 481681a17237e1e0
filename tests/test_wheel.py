"""What a wheel brings: the package, its configs, train and test; and nothing of tools/."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = sorted(path.relative_to(ROOT / 'configs').as_posix() for path in ROOT.glob('configs/*/*.py'))


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Built from a copy: building writes beside the sources."""
    pytest.importorskip('setuptools', minversion='77')
    folder = tmp_path_factory.mktemp('wheel')
    listed = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard', '-z'],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split('\0')):
        if (ROOT / name).is_file() and not name.startswith(('docs/', 'tests/')):
            target = folder / 'source' / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation',
         '--disable-pip-version-check', '-w', folder, folder / 'source'], check=True,
    )  # fmt: skip
    (path,) = folder.glob('*.whl')
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / 'installed')
    return folder / 'installed'


def run(wheel, *arguments):
    environment = {**os.environ, 'PYTHONPATH': str(wheel)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=wheel.parent, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_it_holds_the_package_and_the_configs_alone(wheel):
    names = [path.relative_to(wheel).as_posix() for path in wheel.rglob('*') if path.is_file()]
    rooms = {name.split('/')[0] for name in names}
    assert rooms == {'segformer_plusplus', *(room for room in rooms if room.endswith('.dist-info'))}
    shipped = {name.partition('.mim/configs/')[2] for name in names}
    assert shipped >= {*ROWS, 'metafile.yaml', 'README.md'}
    assert 'segformer_plusplus/.mim/model-index.yml' in names
    assert not [name for name in names if '__pycache__' in name]


def test_its_commands_take_the_configs_by_name(wheel):
    listed = run(wheel, '-m', 'segformer_plusplus', 'info', '--configs').stdout.splitlines()
    rows = [row for row in ROWS if not row.startswith('_base_')]
    assert listed == [f'segformer_plusplus::{row}' for row in rows]
    train = run(wheel, '-m', 'segformer_plusplus', 'train', listed[0])
    # all there but the data
    assert train.returncode == 2 and train.stderr.startswith('error: data not found: '), train


def test_mmengine_finds_its_configs(wheel):
    code = f"""
import segformer_plusplus
from mmengine.config import Config
from mmengine.hub import get_config
assert segformer_plusplus.__file__.startswith({str(wheel)!r})
name = 'segformer_plusplus::jbd/td-hm_mit-b5_hq_1xb16-210e_jbd-640x480.py'
cfg = get_config(name)
assert cfg.filename.startswith({str(wheel)!r}), cfg.filename
open('own.py', 'w').write(f"_base_ = [{{name!r}}]\\nmodel = dict(backbone=dict(arch='b0'))")
print(Config.fromfile('own.py').model.backbone.token_merging)
"""
    result = run(wheel, '-c', code)
    assert result.stdout == 'hq\n', result.stderr
