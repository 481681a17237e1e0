"""mmengine's CheckpointHook, in an order in which a whole checkpoint is there at any moment."""

from __future__ import annotations

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..saving import write_last_checkpoint


@HOOKS.register_module()
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
