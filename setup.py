"""All metadata is in pyproject.toml; this file puts the configs into what is built."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ('configs', 'model-index.yml')
"""What OpenMMLab's packages have in ``.mim``, where mmengine and mim look for it."""


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


setup(cmdclass={'build_py': BuildWithConfigs})
