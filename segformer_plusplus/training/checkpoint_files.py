"""Writes checkpoints that are there whole or not at all, and finds the one to go on from."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..checkpoints import read_checkpoint
from ..errors import CheckpointError, SegformerPlusPlusError
from ..files import replace

UNFINISHED = '.unfinished'
"""Ends the name of a file that is still being written; it begins with a dot."""

_NEEDED = ('meta', 'state_dict', 'message_hub', 'optimizer')

LAST_CHECKPOINT = 'last_checkpoint'
"""mmengine's name of the file that says what to resume."""


LOCK = '.lock'
"""Is locked in the work dir while a training uses it; who that is stands in ``.lock.owner``."""

_ORPHANS = 10.0
"""Seconds that the workers of a killed training may still be there, with its lock."""


def lock_work_dir(
    work_dir: str | os.PathLike[str],
) -> contextlib.AbstractContextManager[Any]:
    """Keeps other trainings out of a folder, until the lock is released or this process ends.

    All processes have to call this; the first one locks.

    Args:
        work_dir: is made if it is not there.

    Returns:
        The lock, which leaving it releases; nothing that matters in the other processes, and
        where the file system has no locks.

    Raises:
        SegformerPlusPlusError: another training uses the folder.
    """
    lock: Any = contextlib.nullcontext()
    fault: list[str | None] = [None]
    if is_main_process():
        owner = Path(work_dir, f'{LOCK}.owner')
        try:
            Path(work_dir).mkdir(parents=True, exist_ok=True)
            lock = FileLock(Path(work_dir, LOCK)).acquire(timeout=_ORPHANS)
            replace(owner, f'process {os.getpid()} on {socket.gethostname()}'.encode())
        except Timeout:
            by = owner.read_text(encoding='utf-8') if owner.is_file() else 'another process'
            fault = [
                f'{work_dir} is in use by a training: {by}; wait for it, or give another work '
                'dir (--work-dir)'
            ]
        except (OSError, NotImplementedError) as error:
            _warn(f'{work_dir} cannot be locked ({error}): start no other training in it')
    broadcast_object_list(fault)
    if fault[0] is not None:
        raise SegformerPlusPlusError(fault[0])
    return lock


@contextlib.contextmanager
def saving(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields where to write to; the file takes its own name once the disk has all of it.

    Raises:
        CheckpointError: it could not be written; what was there before is as it was.
    """
    path = Path(path)
    # nobody foresees it, and a link that lies there is not followed
    place = path.with_name(f'.{path.name}.{secrets.token_hex(8)}{UNFINISHED}')
    try:
        place.touch(exist_ok=False)
        yield place
        with place.open('rb+') as file:
            os.fsync(file.fileno())
        os.replace(place, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or str(error)
        raise CheckpointError(
            f'cannot save {path}: {reason}; the checkpoints before it are whole: make room and '
            'go on with --resume'
        ) from error
    with contextlib.suppress(OSError):  # some file systems cannot, and need not
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # makes the new name last
        finally:
            os.close(folder)


def write_last_checkpoint(folder: str | os.PathLike[str], checkpoint: str) -> None:
    """Writes down which checkpoint is the latest, once that one is in its place."""
    with saving(Path(folder) / LAST_CHECKPOINT) as place:
        place.write_text(checkpoint)


@HOOKS.register_module(force=True)
class DurableCheckpointHook(CheckpointHook):
    """Removes an old checkpoint only when the new one is in its place.

    mmengine removes first: with ``max_keep_ckpts=1``, or the best checkpoint of all, an accident
    while the new one is written would leave none. ``last_checkpoint`` is replaced in one go.
    Arguments as in mmengine.
    """

    file_backend: Any

    def _init_rule(self, rules: Any, key_indicators: Any) -> None:
        try:
            super()._init_rule(rules, key_indicators)
        except ValueError as error:
            raise SegformerPlusPlusError(
                f"default_hooks.checkpoint: {error} Give rule='greater' or rule='less', or check "
                'the spelling of save_best'
            ) from error

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        outdated = []
        if self.max_keep_ckpts > 0 and step not in list(self.keep_ckpt_ids)[-1:]:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated.append(self._path(self.keep_ckpt_ids.popleft()))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.last_ckpt = self._path(step)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.message_hub.update_info('last_ckpt_iter', meta['iter'])
        runner.save_checkpoint(
            self.out_dir,
            self.filename_tmpl.format(step),
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_last_checkpoint(runner.work_dir, str(self.last_ckpt))
            self._remove(outdated)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        backend = self.file_backend
        self.file_backend = later = _RemovesLater(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        several = getattr(self, 'best_ckpt_path_dict', {})
        best = {*several.values(), getattr(self, 'best_ckpt_path', None)}
        if is_main_process():
            self._remove(path for path in later.paths if path not in best)

    def _path(self, step: int) -> str:
        return str(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step)))

    def _remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)


class _RemovesLater:
    """A file backend that remembers what is to be removed."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.paths: list[str] = []

    def remove(self, path: str) -> None:
        self.paths.append(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


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
    if is_main_process():
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
    named = latest_named(work_dir)
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


def latest_named(work_dir: Path) -> Path | None:
    """Reads ``last_checkpoint``; a checkpoint beside it comes first, if the folder was copied."""
    try:
        text = (work_dir / LAST_CHECKPOINT).read_text(encoding='utf-8').strip()
    except (OSError, UnicodeDecodeError):
        return None
    beside = work_dir / Path(text).name
    return (beside if beside.is_file() else Path(text)) if text else None


def _warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)
