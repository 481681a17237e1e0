"""Output files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import SegformerPlusPlusError


@contextlib.contextmanager
def written_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields where to write: a file beside, which takes its name when all went well.

    It ends in the same suffix. What is no file, as /dev/null or a pipe, is written to itself: a
    rename would put a file in its place.

    Raises:
        OSError: whatever writing raises; what was there before is as it was.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    beside = path.with_name(f'.{os.getpid()}-{path.name}')
    try:
        yield beside
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


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
