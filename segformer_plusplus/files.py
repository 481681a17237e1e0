"""Output files that are there whole or not at all, and whether two files are the same."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import SegformerPlusPlusError

# of PyTorch, of safetensors and of OpenVINO
_FAILED_TO_WRITE = re.compile(r'inline_container|PytorchStreamWriter|I/O error|iostream error')


@contextlib.contextmanager
def written_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields where to write: a file beside, which takes its name when all went well.

    It ends in the same suffix. What is no file, as /dev/null or a pipe, is written to itself: a
    rename would put a file in its place.

    Raises:
        OSError: whatever writing raises, and it names the path; what was there before is as it was.
    """
    path = Path(path)
    with naming_the_file(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        place = _new_file_beside(path)
        try:
            yield place
            os.replace(place, path)
        except BaseException:
            place.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def naming_the_file(path: Path) -> Iterator[None]:
    """Names a file in errors of writing it: the system names none, or a hidden one beside it.

    Raises:
        OSError: the one that was raised, with the name of the file.
        SegformerPlusPlusError: in place of what PyTorch, safetensors and OpenVINO raise on a full
            disk.
    """
    try:
        yield
    except OSError as error:
        if not _is_of_writing(error, path):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except Exception as error:
        if not _FAILED_TO_WRITE.search(str(error)):
            raise
        raise SegformerPlusPlusError(f'{path} cannot be written: is the disk full?') from error


def _new_file_beside(path: Path) -> Path:
    """Makes an empty file of the same suffix, under a name that nobody can have foreseen.

    It is a new one, never what a link leads to, and has the permissions of any file that is opened
    here; of an older file at the path, it takes over the permissions.

    Raises:
        OSError: the folder cannot be written.
    """
    place = path.with_name(f'.{secrets.token_hex(8)}{path.suffix}')
    place.touch(exist_ok=False)
    if path.is_file() and not path.is_symlink():
        place.chmod(stat.S_IMODE(path.stat().st_mode))
    return place


def _is_of_writing(error: OSError, path: Path) -> bool:
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    named = Path(os.fsdecode(error.filename)) if not isinstance(error.filename, int) else path
    return named.name.startswith('.') and path.parent in named.parents


def check_writable(path: str | os.PathLike[str]) -> None:
    """Whether a file may be written there, for those who work long before they write.

    Folders that are missing on the way are not made yet.

    Raises:
        SegformerPlusPlusError: it is a folder, lies below a file, or writing is not allowed.
    """
    path = Path(path)
    if path.is_dir():
        raise SegformerPlusPlusError(f'{path} is a folder; name a file')
    if path.exists() and not path.is_file():
        place = path  # a pipe or /dev/null, which is written to itself
    else:
        place = next(each for each in path.absolute().parents if each.exists())
        if not place.is_dir():
            raise SegformerPlusPlusError(f'{path} cannot be written: {place} is no folder')
    if not os.access(place, os.W_OK):
        raise SegformerPlusPlusError(f'{path} cannot be written: {place} is read-only')


def sha256(content: Any) -> str:
    """Of plain values, whatever the order of their keys."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file; read once as long as its size and time stay."""
    about = path.stat()
    return _hash_file(path, about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hash_file(path: Path, _size: int, _time: int) -> str:
    with path.open('rb') as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 22):
            digest.update(block)
        return digest.hexdigest()


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes JSON atomically: readers see the old file or the whole new one, never a half."""
    write_text(path, json.dumps(_plain(content), indent=2, allow_nan=False) + '\n')


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Writes a text file atomically, see ``write_json``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as place:
        place.write_text(content, encoding='utf-8')


def _plain(value: Any) -> Any:
    """Tensors and NumPy scalars as Python numbers; what JSON cannot hold (nan, inf) as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, 'tolist'):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def replace(path: Path, data: bytes) -> None:
    """Writes beside `path` and renames, so that a file that is there is always whole."""
    with written_beside(path) as place:
        place.write_bytes(data)
