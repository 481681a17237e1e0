"""What strategies cost and gain: python tools/fidelity.py CONFIG CHECKPOINT."""

import sys

import segformer_plusplus  # noqa: F401  (registers everything; must precede mmseg and mmpose)
from segformer_plusplus.commands.fidelity import main

if __name__ == '__main__':
    sys.exit(main())
