"""The documentation builds without a warning, and what README and docs point to is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]


def test_the_site_builds_and_all_its_links_lead_somewhere(tmp_path):
    pytest.importorskip('mkdocs')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'getting-started/index.html').is_file()


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
    assert all(f' {page.name}\n' in navigation for page in (ROOT / 'docs').glob('*.md'))
