"""Compares models, token merging presets and other libraries: time, memory, arithmetic.

python tools/benchmark.py CONFIG... [--token-merging NAME...] [--against mmseg transformers]
    [--shape 512x512 1024x1024] [--stages] [--compile] [--training] [--json FILE] [--plot FILE]
"""

import os
import sys

# Before torch is imported: its profiler, which counts memory, otherwise reports to stderr.
os.environ.setdefault('KINETO_LOG_LEVEL', '99')

from segformer_plusplus.commands.benchmark import build_parser, main, read_settings

__all__ = ['build_parser', 'main', 'read_settings']

if __name__ == '__main__':
    sys.exit(main())
