"""Exports a model: python tools/export.py CONFIG CHECKPOINT --format onnx --out FILE."""

import sys

import segformer_plusplus  # noqa: F401  (registers everything; must precede mmseg and mmpose)
from segformer_plusplus.commands.export import main

if __name__ == '__main__':
    sys.exit(main())
