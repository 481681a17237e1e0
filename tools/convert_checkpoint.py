"""Converts weights: python tools/convert_checkpoint.py SRC DST [--to mmseg|transformers|nvlabs]."""

import sys

from segformer_plusplus.commands.convert import main

if __name__ == '__main__':
    sys.exit(main())
