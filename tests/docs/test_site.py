"""The documentation builds without a warning, and what README and docs point to is there."""

import ast
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from segformer_plusplus.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted(DOCS.glob('*.md'))]


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """What `make docs` makes, of a copy."""
    pytest.importorskip('zensical')
    pytest.importorskip('nbconvert')
    folder = tmp_path_factory.mktemp('site')
    for name in ('docs', 'segformer_plusplus'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('.mim'))
    shutil.copy(ROOT / 'mkdocs.yml', folder)
    recipe = re.search(r'^docs: .*\n((?:\t.+\n)+)', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    programs = Path(sys.executable).parent
    commands = recipe[1].replace('$(PYTHON)', sys.executable).replace('$(VENV)/bin', str(programs))
    for command in commands.splitlines():
        done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / 'build/docs'


def test_the_site_builds_and_all_its_links_lead_somewhere(site):
    first = (site / 'index.html').read_text()
    assert 'demo/photograph.png' in first and (site / 'demo/photograph.png').is_file()
    assert 'class="kn">from<' in first  # code is highlighted
    assert (site / 'notebooks/transformers/index.html').read_text().count('<img') > 1


def test_every_public_name_is_in_the_reference(site):
    body = zlib.decompress((site / 'objects.inv').read_bytes().split(b'\n', 4)[4]).decode()
    documented = {line.split(' ')[0] for line in body.splitlines()}
    public = {*public_names()} - {'segformer_plusplus.__version__'}
    assert len(public) > 100
    assert public <= documented


def public_names():
    """Whatever `__all__` of a package lists, in its stub where names come lazily."""
    for path in sorted((ROOT / 'segformer_plusplus').rglob('__init__.py*')):
        for line in ast.parse(path.read_text()).body:
            if isinstance(line, ast.Assign) and isinstance(line.value, ast.List):
                package = '.'.join(path.parent.relative_to(ROOT).parts)
                yield from (f'{package}.{name}' for name in ast.literal_eval(line.value))


def test_nothing_is_loaded_from_other_hosts(site):
    for page in site.rglob('*.html'):
        loaded = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="?(\S+)', page.read_text()
        )
        assert not [each for each in loaded if each.startswith(('http', '//'))], page


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_to_files(page):
    targets = re.findall(r'\]\(([^)#\s]+)', page.read_text())
    for target in targets:
        if '://' not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_commands_name_files_that_are_there(page):
    for name in re.findall(r'\b((?:tools|configs)/[\w./-]+\.py)\b', page.read_text()):
        assert (ROOT / name).is_file(), name


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / 'mkdocs.yml').read_text()
    pages = {path.relative_to(DOCS) for path in DOCS.rglob('*') if path.suffix in ('.md', '.ipynb')}
    assert len(pages) > 30
    assert all(f' {page.with_suffix(".md").as_posix()}\n' in navigation for page in pages)


def test_every_command_is_on_its_page():
    text = (DOCS / 'commands.md').read_text()
    assert all(f'| `segformer-plusplus {name}' in text for name in COMMANDS)
