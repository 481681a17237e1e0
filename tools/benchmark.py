"""python tools/benchmark.py ...: the same as segformer-plusplus benchmark."""

import os
import sys

# before torch is imported: its profiler, which counts memory, otherwise reports to stderr
os.environ.setdefault('KINETO_LOG_LEVEL', '99')

from segformer_plusplus.cli.benchmark import main

if __name__ == '__main__':
    sys.exit(main())
