"""The journal of a search on disk: one call at a time, and whole after a kill."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import SegformerPlusPlusError
from .space import Space
from .study import Study, require_optuna

JOURNAL = 'study.journal'

_LOCK = '.lock'


@contextlib.contextmanager
def open_study(
    folder: Path, space: Space, identity: Mapping[str, str], seed: int, fresh: bool = False
) -> Iterator[Study]:
    """The study of a folder, new or as it was left; no other call can open it meanwhile.

    Args:
        folder: is made.
        space: to search.
        identity: what the numbers depend on, by a name that a message can say.
        seed: of the proposals.
        fresh: forget what was found before.

    Raises:
        MissingDependencyError: optuna is not installed.
        SegformerPlusPlusError: the folder is in use, cannot be written, or holds a study of
            something else.
    """
    optuna = require_optuna()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SegformerPlusPlusError(f'cannot write --out {folder}: {error.strerror}') from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SegformerPlusPlusError(
                f'--out {folder} is in use by another call; wait for it, or name another folder'
            ) from error
        except OSError as error:
            raise SegformerPlusPlusError(
                f'cannot lock --out {folder}: {error.strerror}; name another folder'
            ) from error
        journal = folder / JOURNAL
        if fresh:
            journal.unlink(missing_ok=True)
        yield Study(_load(optuna, journal), space, identity, seed, folder)
    finally:
        os.close(lock)


class _NoLock:
    """The folder is locked already; a lock of optuna's would outlive a killed process."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _load(optuna: Any, journal: Path) -> Any:
    """The study of a journal, whose last line a killed process may have left in part."""
    _cut_torn_line(journal)
    backend = optuna.storages.journal.JournalFileBackend(str(journal), lock_obj=_NoLock())
    return optuna.create_study(
        storage=optuna.storages.journal.JournalStorage(backend),
        study_name='tuning',
        directions=['minimize', 'maximize'],
        load_if_exists=True,
    )


def _cut_torn_line(journal: Path) -> None:
    if journal.exists():
        content = journal.read_bytes()
        whole = content[: content.rfind(b'\n') + 1]
        if whole != content:
            os.truncate(journal, len(whole))
