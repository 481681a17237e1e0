"""Checkpoints that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..errors import CheckpointError

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


@HOOKS.register_module(force=True)
class DurableCheckpointHook(CheckpointHook):
    """Removes an old checkpoint only when the new one is in its place.

    mmengine removes first: with ``max_keep_ckpts=1``, or the best checkpoint of all, an accident
    while the new one is written would leave none. ``last_checkpoint`` is replaced in one go.
    Arguments as in mmengine.
    """

    file_backend: Any

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        outdated = self._count(runner, step) if self.max_keep_ckpts > 0 else None
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.message_hub.update_info('last_ckpt_iter', meta['iter'])
        runner.save_checkpoint(
            self.out_dir,
            name,
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
            if outdated is not None:
                _remove(self.file_backend, outdated)

    def _count(self, runner: Runner, step: int) -> str | None:
        """Enters a checkpoint into those to keep; returns the one that goes for it."""
        if self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step:
            return None
        outdated = None
        if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
            name = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            outdated = self.file_backend.join_path(self.out_dir, name)
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return outdated

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        backend = self.file_backend
        self.file_backend = later = _RemovesLater(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        if is_main_process():
            for path in later.paths - self._best():
                _remove(backend, path)

    def _best(self) -> set[str]:
        several = getattr(self, 'best_ckpt_path_dict', {})
        return {str(path) for path in (*several.values(), getattr(self, 'best_ckpt_path', None))}


class _RemovesLater:
    """A file backend that remembers what is to be removed."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.paths: set[str] = set()

    def remove(self, path: str) -> None:
        self.paths.add(path)

    rmtree = remove

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _remove(backend: Any, path: str) -> None:
    if backend.isfile(path):
        backend.remove(path)
    elif backend.isdir(path):
        backend.rmtree(path)
