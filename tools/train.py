"""python tools/train.py CONFIG ...: the same as segformer-plusplus train."""

import sys

from segformer_plusplus.cli.train import main

if __name__ == '__main__':
    sys.exit(main())
