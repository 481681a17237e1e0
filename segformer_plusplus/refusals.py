"""Says what a pickle asks for that is not run, in place of PyTorch's advice to run it."""

from __future__ import annotations

import contextlib
import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import BinaryIO

from .errors import CheckpointError

_NAMED = re.compile(r'GLOBAL (\S+)|(?:function|got) <\w+[\w\- ]* \'?([\w.]+)')
_FORMATS = {
    'TorchScript': 'it is an archive of TorchScript, a program, not weights: save its state_dict()',
    'legacy .tar': "it has PyTorch's oldest format, a tar archive",
}
_PLAIN = re.compile(
    r'torch\.(?:_utils\.|nn\.parameter\.)?\w+|collections\.(?:OrderedDict|Counter)|'
    r'numpy(?:\._?core\.multiarray|\.dtypes)?\.\w+|mmengine\.logging\.history_buffer\.\w+'
)
_GETATTR = re.compile(r'it asks for .+ of .+')
_MODULES = {**IMPORT_MAPPING, 'posix': 'os', 'nt': 'os'}


class RefusedError(UnpicklingError):
    """A file that is not read because that would run code; the message says which."""


def refused(source: object, reason: object) -> CheckpointError:
    """Returns the error for a checkpoint that is not read, and says how to go on."""
    return CheckpointError(
        f'checkpoint {source} cannot be read safely: {reason}; to read it is to run code. If you '
        'trust where it is from, segformer-plusplus convert SRC DST --unsafe runs that code and '
        'writes the weights without'
    )


def why_refused(path: str | Path, error: Exception) -> str | None:
    """Says why ``torch.load(weights_only=True)`` refuses a file; None if it is only damaged."""
    text = str(error)
    for mark, words in _FORMATS.items():
        if mark in text:
            return words
    if ours := _GETATTR.search(text):  # the words of safe_globals.py
        return ours[0]
    if 'torch.distributed.tensor' in text:
        names = ['torch.distributed.tensor.DTensor']
    elif found := _NAMED.search(text):
        names = [found[1] or found[2]]
    else:
        names = list(dict.fromkeys(_suspects(path)))
    if not names:
        return None
    asked = 'it asks for ' + ' and '.join(map(_today, names[:3]))
    if names[0].startswith('torch.distributed.'):
        return f'{asked}, a part of weights: gather them (FSDP) and save them whole'
    return asked


def _today(name: str) -> str:
    """Returns the name under which Python 3 has what Python 2 called so, as pickles still do."""
    module, _, rest = name.rpartition('.')
    return f'{_MODULES.get(module, module)}.{rest}'.removeprefix('.')


def _suspects(path: str | Path) -> Iterator[str]:
    """Yields what the pickles of a file ask for beside tensors and numbers; runs nothing."""
    # whatever a damaged pickle leads to
    with contextlib.suppress(Exception), Path(path).open('rb') as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            yield from _asked_for(file)
            return
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith('.pkl'):
                    yield from _asked_for(archive.open(name))  # type: ignore[arg-type]


def _asked_for(stream: BinaryIO) -> Iterator[str]:
    texts, memo = ['', ''], ['']
    while True:  # some formats are several pickles, and the end is an error
        memo.clear()
        for code, value, _ in pickletools.genops(stream):
            name = str(value).replace(' ', '.') if code.name in ('GLOBAL', 'INST') else ''
            if code.name == 'STACK_GLOBAL':
                name = '.'.join(texts[-2:])
            elif code.name == 'MEMOIZE':
                memo.append(texts[-1])
            elif code.name in ('BINGET', 'LONG_BINGET') and isinstance(value, int):
                texts.append(memo[value] if value < len(memo) else '')
            elif isinstance(value, str):
                texts.append(value)
            if name and not _PLAIN.fullmatch(name):
                yield name
