"""What a data loader's worker does first: outlive the SIGTERM that its training outlives."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from torch.utils.data import DataLoader


def outlive_sigterm(loader: DataLoader) -> None:
    """Let the workers of a data loader survive a SIGTERM that does not come from their parent."""
    if not isinstance(loader.worker_init_fn, _WorkerInit):
        loader.worker_init_fn = _WorkerInit(loader.worker_init_fn)


class _WorkerInit:
    """Calls what the worker was told to do first, in addition."""

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self._init = init

    def __call__(self, worker_id: int) -> None:
        _survive_sigterm()
        if self._init is not None:
            self._init(worker_id)


def _survive_sigterm(seconds: float = 60) -> None:
    """Let this worker work on for a while when others than its parent end it.

    Schedulers send SIGTERM to every process of a job, but the training process still needs its
    workers to finish the iteration. What the parent sends ends the worker at once, without a word,
    as PyTorch has it.
    """
    # who has sent a signal is told to those only who wait for it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait, args=(os.getppid(), seconds), daemon=True).start()


def _wait(parent: int, seconds: float) -> None:
    info: signal.struct_siginfo | None = signal.sigwaitinfo({signal.SIGTERM})
    end = time.monotonic() + seconds
    while info is not None and info.si_pid != parent:
        info = signal.sigtimedwait({signal.SIGTERM}, max(0.0, end - time.monotonic()))
    os._exit(0)
