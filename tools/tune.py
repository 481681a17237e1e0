"""Tunes token merging: python tools/tune.py CONFIG CHECKPOINT --max-drop 0.1 --out DIR."""

import sys

import segformer_plusplus  # noqa: F401  (registers everything; must precede mmseg and mmpose)
from segformer_plusplus.commands.tune import main

if __name__ == '__main__':
    sys.exit(main())
