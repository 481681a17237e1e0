"""Turns the accidents of a long run into one line that says what to change."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

import torch
from torch.utils.data._utils import signal_handling

from ..errors import SegformerPlusPlusError

_WORKER = re.compile(r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:exited|is killed)[^.]*')

_IN_TRAINING = (
    'a smaller train_dataloader.batch_size with accumulate=N '
    '(configs/_base_/runtime/accumulate.py), gradient_checkpointing=True, --amp, a smaller crop, '
    'or model.backbone.token_merging=fast'
)
_IN_EVALUATION = (
    "windows (model.test_cfg.mode='slide' with a smaller crop_size), a smaller "
    '{phase}_dataloader.batch_size, model.backbone.token_merging=fast, model.labels_only=True, or '
    '{phase}_cfg.fp16=True'
)


@contextlib.contextmanager
def advice(phase: str) -> Iterator[None]:
    """Explains when the memory, on a GPU or the CPU, runs out or a data loader's worker dies.

    Args:
        phase: 'train', 'val' or 'test'.

    Raises:
        SegformerPlusPlusError: says what to change.
    """
    try:
        try:
            yield
        except (EOFError, ConnectionError):  # the first sign of a dead worker
            _await_death()
            raise
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        message = _explain(phase, error)
        if message is None:
            raise
        raise SegformerPlusPlusError(message) from error


def _await_death(seconds: float = 5.0) -> None:
    """Waits until PyTorch notices that a worker has died.

    The kernel closes the connections of a process a while before the process is dead. PyTorch
    notices in a signal handler, which interrupts this wait, or when it is asked.

    Raises:
        RuntimeError: PyTorch's, with the worker's process id.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        signal_handling._error_if_any_worker_fails()
        time.sleep(0.02)


def _explain(phase: str, error: Exception) -> str | None:
    text = str(error)
    kinds = (torch.cuda.OutOfMemoryError, MemoryError)
    if isinstance(error, kinds) or 'DefaultCPUAllocator' in text:
        lower = _IN_TRAINING if phase == 'train' else _IN_EVALUATION.format(phase=phase)
        return f'out of memory in {phase}; what lowers it: {lower}'
    worker = _WORKER.search(text)
    if worker is None:
        return None
    resume = ', and --resume goes on from the latest checkpoint' if phase == 'train' else ''
    return (
        f'a worker of the {phase} data loader died (pid {worker[1]}), most often killed by the '
        f'system for want of memory: fewer {phase}_dataloader.num_workers, a smaller '
        f'prefetch_factor or more memory (in a container: more /dev/shm) help{resume}'
    )
