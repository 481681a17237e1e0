"""Draws synthetic street scenes with pixel labels, laid out as Cityscapes or ADE20K."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from segformer_plusplus.cli.guard import main_guard
from tools.dataset_generators.layouts import ADE20K, CITYSCAPES
from tools.dataset_generators.writing import run_command


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns its exit code."""
    return run_command(argv, __doc__, (CITYSCAPES, ADE20K), train=200, val=20)


if __name__ == '__main__':
    sys.exit(main())
