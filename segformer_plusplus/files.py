"""Output files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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
