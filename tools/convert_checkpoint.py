"""python tools/convert_checkpoint.py ...: the same as segformer-plusplus convert."""

import sys

from segformer_plusplus.cli.convert import main

if __name__ == '__main__':
    sys.exit(main())
