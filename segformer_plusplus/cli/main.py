"""The console script: segformer-plusplus COMMAND ..."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from ..errors import MissingDependencyError
from ..libraries import naming_what_is_missing, quietly
from ..version import __version__

COMMANDS = {
    'train': 'a model of mmseg or mmpose, by its config; goes on where it was',
    'test': 'a model of mmseg or mmpose, on the test set of its config',
    'predict': 'labels or keypoints of images, folders and videos, as pictures and files',
    'merge-map': 'a picture of which tokens of an image are merged',
    'advise': 'the fastest way to run a model on this processor, as a file',
    'tune': 'the fastest merging that loses no more than you allow',
    'benchmark': 'speed and memory of models and strategies',
    'fidelity': 'what strategies cost a trained model in accuracy, and gain in speed',
    'models': 'trained models that commands take by their name',
    'convert': 'weights of mmseg, Transformers, NVlabs and segmentation_models.pytorch',
    'export': 'ONNX, torch.export and OpenVINO',
    'demo': 'a page in the browser to try it',
    'info': 'versions, strategies, and what a config or a checkpoint holds',
}
"""Says what each command does; its module in this package has ``main(argv, prog)``."""

_USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0 done, 1 done in part, 2 wrong call."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if not arguments or arguments[0] in ('-h', '--help'):
        sys.stdout.write(_help())
        return 0 if arguments else _USAGE_ERROR
    name, *rest = arguments
    if name == '--version':
        sys.stdout.write(f'segformer-plusplus {__version__}\n')
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f'did you mean {close[0]!r}? ' if close else ''
        sys.stderr.write(
            f'error: unknown command {name!r}; {hint}choose from {", ".join(COMMANDS)}\n'
        )
        return _USAGE_ERROR
    # before torch is imported: its profiler, which counts memory, otherwise reports to stderr
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')
    # a command is imported only when it is asked for: most of them import PyTorch and toolboxes
    try:
        with quietly(), naming_what_is_missing(f'segformer-plusplus {name}'):
            command = import_module(f'.{name.replace("-", "_")}', __package__)
    except MissingDependencyError as error:
        sys.stderr.write(f'error: {error}\n')
        return _USAGE_ERROR
    except KeyboardInterrupt:
        sys.stderr.write('interrupted\n')
        return 130
    code: int = command.main(rest, prog=f'segformer-plusplus {name}')
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f'  {name:{width}}  {text}' for name, text in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: segformer-plusplus COMMAND ...',
            '',
            'SegFormer with token merging: predict, look, measure, convert, deploy.',
            '',
            'commands:',
            *lines,
            '',
            'segformer-plusplus COMMAND --help says what a command takes.',
            '',
        ]
    )
