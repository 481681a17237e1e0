"""Which checkpoint of a work dir to go on from: the latest one that is whole."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, get_rank
from mmengine.logging import print_log

from ..checkpoints import read_checkpoint
from ..errors import CheckpointError
from .saving import LAST_CHECKPOINT, UNFINISHED

_NEEDED = ('meta', 'state_dict', 'message_hub', 'optimizer')


def find_resumable(work_dir: str | os.PathLike[str]) -> str | None:
    """The latest whole checkpoint of a training, which each one is verified for.

    That is the one that ``last_checkpoint`` names; if it is damaged or gone, the one with the most
    iterations out of those beside it. Each one that is passed over is logged with what is wrong.
    What a kill left unfinished is removed.

    Returns:
        Its path; None if the folder has none and never had.

    Raises:
        CheckpointError: there are checkpoints, or there were, but none can be used.
    """
    work_dir = Path(work_dir)
    named = _named(work_dir)
    for folder in {work_dir, *([named.parent] if named else [])}:
        _tidy(folder)
    faults: dict[Path, str] = {}
    if named is not None:
        try:
            iterations(named)
        except CheckpointError as error:
            _log(faults, named, error)
        else:
            return str(named)
    best: tuple[int, Path] | None = None
    for path in _others(work_dir, named):
        try:
            found = (iterations(path), path)
        except CheckpointError as error:
            _log(faults, path, error)
        else:
            best = max(best, found) if best else found
    if best is not None:
        print_log(f'going on from {best[1]} instead', logger='current', level=logging.WARNING)
        return str(best[1])
    if faults:
        raise CheckpointError(
            f'nothing to resume in {work_dir}: no checkpoint is whole: {"; ".join(faults.values())}'
            '; move them away to start anew'
        )
    return None


def find_resumable_together(work_dir: str | os.PathLike[str]) -> str | None:
    """:func:`find_resumable` by the main process for all, which have to call this.

    Raises:
        CheckpointError: in all of them, if none can be used.
    """
    found: list[str | None] = [None, None]
    if get_rank() == 0:
        try:
            found[0] = find_resumable(work_dir)
        except CheckpointError as error:
            found[1] = str(error)
    broadcast_object_list(found)
    path, fault = found
    if fault is not None:
        raise CheckpointError(fault)
    return path


def iterations(path: str | os.PathLike[str]) -> int:
    """How many iterations a checkpoint has behind it, after every byte of it was checked.

    Raises:
        CheckpointError: it is missing, damaged, or nothing that a training can go on from.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'{path} is missing')
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # PyTorch itself does not look at the checksums
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise CheckpointError(f'{path} is damaged: {error}') from error
    if broken:
        raise CheckpointError(f'{path} is damaged: the checksum of {broken} is wrong')
    checkpoint: dict[str, Any] = read_checkpoint(path)
    missing = [key for key in _NEEDED if key not in checkpoint]
    if missing or 'iter' not in checkpoint['meta']:
        raise CheckpointError(f'{path} holds no training state ({missing or "meta.iter"} missing)')
    return int(checkpoint['meta']['iter'])


def _named(work_dir: Path) -> Path | None:
    """What ``last_checkpoint`` names, as an absolute path; beside it if the folder was copied."""
    try:
        text = (work_dir / LAST_CHECKPOINT).read_text(encoding='utf-8').strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not text:
        return None
    path = Path(text)
    beside = work_dir / path.name
    return beside if beside.is_file() else path


def _others(work_dir: Path, named: Path | None) -> Iterator[Path]:
    folders = {work_dir, *([named.parent] if named else [])}
    for folder in sorted(folders):
        for path in sorted(folder.glob('*.pth')):
            # the best one holds no state of the optimizer, a published one none at all
            if path != named and path.stem.split('_')[0] in ('iter', 'epoch'):
                yield path


def _tidy(folder: Path) -> None:
    for path in folder.glob(f'.*{UNFINISHED}'):
        print_log(f'{path} was never finished: removed', logger='current', level=logging.WARNING)
        path.unlink(missing_ok=True)


def _log(faults: dict[Path, str], path: Path, error: CheckpointError) -> None:
    faults[path] = str(error)
    print_log(f'not resumed: {error}', logger='current', level=logging.WARNING)
