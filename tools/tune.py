"""python tools/tune.py ...: the same as segformer-plusplus tune."""

import sys

from segformer_plusplus.cli.tune import main

if __name__ == '__main__':
    sys.exit(main())
