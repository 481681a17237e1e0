"""Ends a training on SIGTERM after the iteration, with a checkpoint; its workers last as long.

Ctrl-C ends it at once, and is heard where it was swallowed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, is_distributed, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .checkpoint_files import write_last_checkpoint

EXIT_CODE = 128 + signal.SIGTERM
"""143, what a shell shows for a program that SIGTERM ended."""

_ECHO = 1.0
"""Seconds in which more SIGTERMs are the same one: a scheduler's and the launcher's."""


@HOOKS.register_module(force=True)
class PreemptionHook(Hook):
    """On SIGTERM finishes the iteration, saves a checkpoint and exits with code 143.

    ``--resume`` goes on from there. A second SIGTERM, at least a second after the first, exits at
    once. With several processes all of them stop after the same iteration, though the signal may
    reach them during different ones, or only one of them.

    In a validation a single process saves and stops after the running batch; that validation is
    not repeated. Of several processes the first one saves there if it was told, but all of them
    finish the validation, since the others wait for its results.

    Args:
        interval: with several processes, how often they ask each other, in iterations. One number
            is exchanged.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int = 1) -> None:
        self.interval = interval
        self._since: float | None = None
        self._saved: int | None = None
        self._before: Any = None
        self._pid = os.getpid()

    def before_train(self, runner: Runner) -> None:
        """Starts to listen, where signals can be listened to: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._pid = os.getpid()
            self._before = signal.signal(signal.SIGTERM, self._receive)

    def after_train(self, runner: Runner) -> None:
        """Stops listening, and gives SIGTERM back to the handler that had it before."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Leaves if any process was told to, unless gradients are still being accumulated."""
        wrapper = runner.optim_wrapper
        between = not isinstance(wrapper, OptimWrapper) or wrapper.should_update()
        if between and self._any_told(runner.iter + 1):
            self._save(runner, runner.iter + 1, leave=True)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Saves in the middle of a validation too, and leaves if nobody waits for this process."""
        if self._since is not None and self._saved != runner.iter:
            with _trained_weights(runner):
                self._save(runner, runner.iter, leave=not is_distributed())

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a worker that inherited this before it has its own
            os._exit(EXIT_CODE)
        if self._since is None:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > _ECHO:
            os._exit(EXIT_CODE)

    def _any_told(self, iteration: int) -> bool:
        told = self._since is not None
        if not is_distributed():
            return told
        if iteration % self.interval:
            return False
        votes = torch.tensor(int(told))
        all_reduce(votes, op='max')
        return bool(votes)

    def _save(self, runner: Runner, iteration: int, leave: bool) -> None:
        """Saves what CheckpointHook has not just saved, and exits if it may leave."""
        self._saved = iteration
        if runner.message_hub.get_info('last_ckpt_iter') == iteration:
            path = str(runner.message_hub.get_info('last_ckpt'))
        else:
            name = f'iter_{iteration}.pth'
            path = os.path.join(runner.work_dir, name)
            meta = dict(epoch=runner.epoch, iter=iteration)
            runner.save_checkpoint(runner.work_dir, name, meta=meta, by_epoch=False)
            if is_main_process():
                write_last_checkpoint(runner.work_dir, path)
        if leave:
            runner.logger.warning(
                f'stopped by SIGTERM after iteration {iteration}: {path} is saved; --resume goes '
                'on from there'
            )
            raise SystemExit(EXIT_CODE)


@contextlib.contextmanager
def hearing_ctrl_c() -> Iterator[Callable[[], None]]:
    """Keeps in mind that Ctrl-C was pressed: where it meets a destructor, Python swallows it.

    Yields:
        What raises ``KeyboardInterrupt`` if Ctrl-C was pressed. Another handler than Python's
        own stays in place.
    """
    pressed = []

    def receive(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.default_int_handler(number, frame)

    def ask() -> None:
        if pressed:
            raise KeyboardInterrupt

    listens = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if listens:
        signal.signal(signal.SIGINT, receive)
    try:
        yield ask
    finally:
        if listens:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def _trained_weights(runner: Runner) -> Iterator[None]:
    """Undoes for a while that EMAHook has exchanged the weights for a validation."""
    averages = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    for hook in averages:
        hook.after_val_epoch(runner)
    try:
        yield
    finally:
        for hook in averages:
            hook.before_val_epoch(runner)


def start_worker(init: Callable[[int], None] | None, worker_id: int) -> None:
    """Starts a data loader's worker that lives on for a minute when others than its parent end it.

    Schedulers send SIGTERM to every process of a job, but the training process still needs its
    workers to finish the iteration. A SIGTERM of the parent ends the worker at once, without a
    word, as PyTorch has it.

    Args:
        init: the data loader's own ``worker_init_fn``.
        worker_id: the argument of ``init``.
    """
    # only who waits for a signal learns which process has sent it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_on_sigterm, args=(os.getppid(), 60), daemon=True).start()
    if init is not None:
        init(worker_id)


def _exit_on_sigterm(parent: int, seconds: float) -> None:
    info: signal.struct_siginfo | None = signal.sigwaitinfo({signal.SIGTERM})
    end = time.monotonic() + seconds
    while info is not None and info.si_pid != parent:
        info = signal.sigtimedwait({signal.SIGTERM}, max(0.0, end - time.monotonic()))
    os._exit(0)
