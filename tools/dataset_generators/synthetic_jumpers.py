"""Draws synthetic jumpers with keypoints, laid out as Jump-Broadcast or COCO 2017."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from segformer_plusplus.cli.options import Flat, command
from tools.dataset_generators.layouts import LAYOUTS
from tools.dataset_generators.writing import Drawn, write


@command
def main(
    out_dir: str,
    /,
    *,
    layout: Literal['jbd', 'jbd-raw', 'coco'] = 'jbd',
    train: int = 500,
    val: int = 50,
    drawn: Annotated[Drawn, Flat] = Drawn(),
) -> None:
    """Draws synthetic jumpers with keypoints, laid out as Jump-Broadcast or COCO 2017.

    Args:
        out_dir: folder to fill; it is made if it is missing.
        layout: the data set whose folders and files are imitated.
        train: training images.
        val: validation images.
    """
    write(LAYOUTS[layout], out_dir, train=train, val=val, **vars(drawn))


if __name__ == '__main__':
    sys.exit(main(prog=f'python tools/dataset_generators/{Path(__file__).name}'))
