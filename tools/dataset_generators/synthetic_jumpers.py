"""Draws synthetic jumpers with keypoints: Jump-Broadcast (jbd: converted; jbd-raw: as distributed,
with csv files) or COCO 2017 (coco)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from segformer_plusplus.cli.guard import main_guard
from tools.dataset_generators.layouts import COCO_2017, JUMP_BROADCAST, JUMP_BROADCAST_RAW
from tools.dataset_generators.writing import run_command


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns its exit code."""
    layouts = JUMP_BROADCAST, JUMP_BROADCAST_RAW, COCO_2017
    return run_command(argv, __doc__, layouts, train=500, val=50)


if __name__ == '__main__':
    sys.exit(main())
