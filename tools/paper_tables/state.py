"""What is done: fingerprints, files that are whole or not there, one call at a time per folder."""

from __future__ import annotations

import argparse
import contextlib
import copy
import fcntl
import functools
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

import segformer_plusplus
from segformer_plusplus.errors import SegformerPlusPlusError, describe_error
from segformer_plusplus.evaluation.timing import describe_environment
from segformer_plusplus.files import hash_file, replace, sha256

MARKER = 'reproduction.json'
"""In an ``--out`` of ours: says whether the data are real or drawn."""

Fingerprint = dict[str, Any]

_LOCK = '.lock'
_PATIENCE = 20.0

_PACKAGE = Path(segformer_plusplus.__file__).parent

# what neither trains nor tests nor times may change without a new measurement
_NO_PART = ('demo', 'export', 'patching', 'evaluation/fidelity', 'evaluation/tuning', 'moved.py')
_PARTS = {
    'cli': ('train.py', 'test.py', 'benchmark.py', 'guard.py', 'options.py'),
    'inference': ('configs.py', 'labels.py', 'opening.py'),
}
"""Of these rooms, the files that do."""

VERSIONS = 'torch', 'mmengine', 'mmcv', 'mmseg', 'mmpose', 'tomesd'


@functools.lru_cache(maxsize=1)
def hash_sources() -> str:
    """SHA-256 of the package's sources that train, test and time."""
    files = {path.relative_to(_PACKAGE).as_posix(): path for path in _PACKAGE.rglob('*.py')}
    return sha256({name: hash_file(path) for name, path in files.items() if _measures(name)})


def _measures(name: str) -> bool:
    room, _, inside = name.partition('/')
    return not name.startswith(_NO_PART) and inside in _PARTS.get(room, (inside,))


@functools.lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Where this process runs; asked once."""
    return describe_environment()


def code_fingerprint() -> Fingerprint:
    """Our sources, and the versions of what they stand on."""
    versions = environment()['versions']
    return {
        'sources': hash_sources(),
        'versions': {name: versions[name] for name in VERSIONS},
    }


def read_config(path: Path) -> dict[str, Any]:
    """A config, resolved, as plain values.

    Raises:
        SegformerPlusPlusError: it cannot be read.
    """
    try:
        return Config.fromfile(str(path)).to_dict()
    except Exception as error:  # a config is a program: it can fail in any way
        reason = describe_error(error) or f'{type(error).__name__}: {error}'
        raise SegformerPlusPlusError(f'cannot read config {path}: {reason}') from error


def with_options(content: Mapping[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """A config with KEY=VALUE options, read as the tools read them; the old one stays.

    Raises:
        SegformerPlusPlusError: an option does not fit.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='*', action=DictAction, default={})
    cfg = Config(copy.deepcopy(dict(content)))
    try:
        cfg.merge_from_dict(parser.parse_args(['--options', *options]).options)
    except Exception as error:  # mmengine checks little of this itself
        raise SegformerPlusPlusError(f'options do not fit the config: {error}') from error
    return cfg.to_dict()


def changed(old: Mapping[str, Any] | None, new: Fingerprint) -> list[str]:
    """The parts of a fingerprint that differ; all of them where there is no old one."""
    if old is None:
        return list(new)
    return [key for key in {**new, **old} if old.get(key) != new.get(key)]


class Store:
    """The folder with all states and results.

    Args:
        folder: made by :meth:`claim`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check(self, data: str) -> None:
        """Raise unless the folder is ours or may become ours.

        Args:
            data: 'real' or 'synthetic'; the two are never mixed in one folder.

        Raises:
            SegformerPlusPlusError: it holds something else, or results on other data.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise SegformerPlusPlusError(f'--out {self.folder} is no folder')
        marker = self.read(MARKER)
        if marker is None:
            # a call that was killed at once has left no more than these
            begun = _LOCK, f'.{MARKER}', MARKER
            names = [path.name for path in self.folder.glob('*')]
            if any(not name.startswith(begun) for name in names):
                raise SegformerPlusPlusError(
                    f'--out {self.folder} holds files but no {MARKER}, so it is not ours to write '
                    'to; name another folder'
                )
        elif marker.get('data') != data:
            raise SegformerPlusPlusError(
                f'--out {self.folder} holds results on {marker.get("data")} data, asked for is '
                f'{data}; name another folder'
            )

    @contextlib.contextmanager
    def claim(self, data: str) -> Iterator[int]:
        """Check, make and lock the folder; yields the lock, to be inherited by what is started.

        What a killed call has started keeps the lock until it has ended, too.

        Raises:
            SegformerPlusPlusError: as :meth:`check`; it cannot be written; or it is in use.
        """
        self.check(data)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _cannot_write(self.folder, error) from error
        try:
            self._lock(descriptor)
            self.write(MARKER, {'data': data})
            yield descriptor
        finally:
            os.close(descriptor)

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file below the folder; None if it is not there, or is not ours any more."""
        try:
            content = json.loads((self.folder / name).read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """A JSON file below the folder, see :meth:`write_bytes`."""
        text = json.dumps(content, indent=2, allow_nan=False) + '\n'
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write beside and rename: what is there is whole.

        Raises:
            SegformerPlusPlusError: the folder is full or cannot be written.
        """
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, content)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def _lock(self, descriptor: int) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if time.monotonic() > end:
                    raise SegformerPlusPlusError(
                        f'--out {self.folder} is in use by another call (or by what it started); '
                        'wait for it, or name another folder'
                    ) from error
            time.sleep(0.2)


def _cannot_write(path: Path, error: OSError) -> SegformerPlusPlusError:
    return SegformerPlusPlusError(f'cannot write {path}: {error.strerror or error}')
