"""python tools/test.py CONFIG ...: the same as segformer-plusplus test."""

import sys

from segformer_plusplus.cli.test import main

if __name__ == '__main__':
    sys.exit(main())
