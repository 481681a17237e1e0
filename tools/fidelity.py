"""python tools/fidelity.py ...: the same as segformer-plusplus fidelity."""

import sys

from segformer_plusplus.cli.fidelity import main

if __name__ == '__main__':
    sys.exit(main())
