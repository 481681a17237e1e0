"""python tools/export.py ...: the same as segformer-plusplus export."""

import sys

from segformer_plusplus.cli.export import main

if __name__ == '__main__':
    sys.exit(main())
