"""Writes checkpoints that are there whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
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
    """Names where a file is written first: always the same, so that few are left behind."""
    path = Path(path)
    return path.with_name(f'.{path.name}{UNFINISHED}')


@contextlib.contextmanager
def saving(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields where to write to; the file takes its own name once the disk has all of it.

    Raises:
        CheckpointError: it could not be written; what was there before is as it was.
    """
    path = Path(path)
    try:
        yield beside(path)
        with beside(path).open('rb+') as file:
            os.fsync(file.fileno())
        os.replace(beside(path), path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside(path).unlink(missing_ok=True)
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
        path: str = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
        return path

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
