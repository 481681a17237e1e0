"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import CheckpointError

UNFINISHED = '.unfinished'
"""Ends the name of a file that is still being written; it begins with a dot."""

LAST_CHECKPOINT = 'last_checkpoint'
"""mmengine's name of the file that says what to resume."""


def beside(path: str | os.PathLike[str]) -> Path:
    """Where a file is written first: the same name every time, so that none are left behind."""
    path = Path(path)
    return path.with_name(f'.{path.name}{UNFINISHED}')


def put_in_place(path: str | os.PathLike[str]) -> None:
    """Move what was written to :func:`beside` to its own name, once the disk has it."""
    path = Path(path)
    with beside(path).open('rb+') as file:
        os.fsync(file.fileno())
    os.replace(beside(path), path)
    _sync_folder(path.parent)


@contextlib.contextmanager
def saving(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields where to write to; the file takes its own name when all went well.

    Raises:
        CheckpointError: it could not be written; what was there before is as it was.
    """
    try:
        yield beside(path)
        put_in_place(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside(path).unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise CheckpointError(
            f'cannot save {path}: {reason}; the checkpoints before it are whole: make room and '
            'go on with --resume'
        ) from error


def write_last_checkpoint(folder: str | os.PathLike[str], checkpoint: str) -> None:
    """Say which checkpoint is the latest, after that is in its place."""
    with saving(Path(folder) / LAST_CHECKPOINT) as place:
        place.write_text(checkpoint)


def _sync_folder(folder: Path) -> None:
    """Make a new name last; some file systems cannot, and need not."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
