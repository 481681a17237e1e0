"""Adds to the metadata of pyproject.toml what depends on where and when the package is built."""

import os
import re
import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ('configs', 'model-index.yml')
"""What OpenMMLab's packages have in ``.mim``, where mmengine and mim look for it."""
PAPER = 'https://arxiv.org/abs/2405.14467'
REPOSITORY = os.environ.get('SEGFORMER_PLUSPLUS_REPOSITORY', '').rstrip('/')
"""Address of the repository that a release is made from; the release workflow says it."""
VERSION = runpy.run_path(str(ROOT / 'segformer_plusplus' / 'version.py'))['__version__']


class BuildWithConfigs(build_py):
    """Copies the configs into ``segformer_plusplus/.mim``; an editable install links to them."""

    def run(self) -> None:
        super().run()
        package = ROOT if self.editable_mode else Path(self.build_lib)
        target = package / 'segformer_plusplus' / '.mim'
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in SHIPPED:
            if self.editable_mode:
                (target / name).symlink_to(ROOT / name)
            elif (ROOT / name).is_dir():
                skipped = shutil.ignore_patterns('__pycache__', '*.pyc')
                shutil.copytree(ROOT / name, target / name, ignore=skipped)
            else:
                shutil.copy(ROOT / name, target / name)


def whole(name: str) -> str:
    """The address of a file of this version, of a picture itself."""
    return f'{REPOSITORY}/{"raw" if name.endswith(".png") else "blob"}/v{VERSION}/{name}'


def readme() -> str:
    """The README with its pictures and links as an index page needs them: whole addresses."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    if not REPOSITORY:
        return text
    return re.sub(r'\]\((?!\w+://|#)([^)\s]+)\)', lambda link: f']({whole(link[1])})', text)


def urls() -> dict[str, str]:
    """What an index page links to."""
    if not REPOSITORY:
        return {'Paper': PAPER}
    return {
        'Source': REPOSITORY,
        'Documentation': whole('docs/index.md'),
        'Changelog': whole('CHANGELOG.md'),
        'Issues': f'{REPOSITORY}/issues',
        'Paper': PAPER,
    }


setup(
    cmdclass={'build_py': BuildWithConfigs},
    long_description=readme(),
    long_description_content_type='text/markdown',
    project_urls=urls(),
)
