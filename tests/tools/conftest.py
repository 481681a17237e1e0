"""Shares small data sets, each drawn once for all tests of the tools."""

from pathlib import Path

import pytest

SCENES = dict(train=4, val=2, size=(64, 128), progress=False)
JUMPERS = dict(train=8, val=6, size=(120, 200), progress=False)


class Drawn:
    """Draws data sets by the names of their layouts."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, layout: str, folder: Path, **other: object) -> None:
        """Draws the usual set into a folder, or with other settings."""
        from tools.dataset_generators.layouts import LAYOUTS
        from tools.dataset_generators.writing import write

        usual = SCENES if layout in ('cityscapes', 'ade20k') else JUMPERS
        write(LAYOUTS[layout], folder, **{**usual, **other})

    def __call__(self, layout: str) -> Path:
        """Returns the folder of the usual set, to read only."""
        folder = self._root / layout
        if not folder.exists():
            self.write(layout, folder)
        return folder


@pytest.fixture(scope='session')
def drawn(tmp_path_factory) -> Drawn:
    return Drawn(tmp_path_factory.mktemp('drawn'))
