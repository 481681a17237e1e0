"""Finds the checkpoint of a work dir to go on from: the latest one that is whole."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, get_rank
from mmengine.logging import print_log

from ..checkpoints import read_checkpoint
from ..errors import CheckpointError
from .saving import LAST_CHECKPOINT, UNFINISHED

_NEEDED = ('meta', 'state_dict', 'message_hub', 'optimizer')


def find_resumable(work_dir: str | os.PathLike[str]) -> str | None:
    """Finds the latest whole checkpoint of a training; all processes have to call this.

    That is the one that ``last_checkpoint`` names; if it is damaged or gone, the one with the most
    iterations out of those beside it. A log line names each one that is passed over and what is
    wrong with it. Files that a kill left unfinished are removed.

    Returns:
        Its path; None if the folder has no checkpoint and never had one.

    Raises:
        CheckpointError: there are checkpoints, or there were, but none can be used.
    """
    found: list[str | None] = [None, None]
    if get_rank() == 0:
        try:
            found[0] = _search(Path(work_dir))
        except CheckpointError as error:
            found[1] = str(error)
    broadcast_object_list(found)
    path, fault = found
    if fault is not None:
        raise CheckpointError(fault)
    return path


def iterations(path: str | os.PathLike[str]) -> int:
    """Checks every byte of a checkpoint and returns how many iterations it has behind it.

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


def _search(work_dir: Path) -> str | None:
    named = _named(work_dir)
    folders = {work_dir, *([named.parent] if named else [])}
    for folder in folders:
        for path in folder.glob(f'.*{UNFINISHED}'):
            _warn(f'{path} was never finished: removed')
            path.unlink(missing_ok=True)
    faults: list[str] = []

    def iterations_or_fault(path: Path) -> int | None:
        try:
            return iterations(path)
        except CheckpointError as error:
            faults.append(str(error))
            _warn(f'not resumed: {error}')
            return None

    if named and iterations_or_fault(named) is not None:
        return str(named)
    paths = {path for folder in folders for path in folder.glob('*.pth')} - {named}
    # the best one holds no state of the optimizer, a published one none at all
    others = sorted(path for path in paths if path.stem.split('_')[0] in ('iter', 'epoch'))
    counts = [(count, path) for path in others if (count := iterations_or_fault(path)) is not None]
    if counts:
        _, latest = max(counts)
        _warn(f'going on from {latest} instead')
        return str(latest)
    if faults:
        raise CheckpointError(
            f'nothing to resume in {work_dir}: no checkpoint is whole: {"; ".join(faults)}'
            '; move them away to start anew'
        )
    return None


def _named(work_dir: Path) -> Path | None:
    """Reads ``last_checkpoint``; a checkpoint beside it comes first, if the folder was copied."""
    try:
        text = (work_dir / LAST_CHECKPOINT).read_text(encoding='utf-8').strip()
    except (OSError, UnicodeDecodeError):
        return None
    beside = work_dir / Path(text).name
    return (beside if beside.is_file() else Path(text)) if text else None


def _warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)
