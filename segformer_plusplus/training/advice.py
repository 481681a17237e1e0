"""Accidents of a long run, told in one line that says what to change."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data._utils import signal_handling

from ..errors import SegformerPlusPlusError

_WORKER = re.compile(r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:exited|is killed)[^.]*')

_LESS_MEMORY = {
    'train': 'a smaller train_dataloader.batch_size with accumulate=N '
    '(configs/_base_/runtime/accumulate.py), gradient_checkpointing=True, --amp, a smaller crop, '
    'or model.backbone.token_merging=fast',
    'val': "windows (model.test_cfg.mode='slide' with a smaller crop_size), a smaller "
    'val_dataloader.batch_size, model.backbone.token_merging=fast, model.labels_only=True, or '
    'val_cfg.fp16=True',
    'test': "windows (model.test_cfg.mode='slide' with a smaller crop_size), a smaller "
    'test_dataloader.batch_size, --token-merging fast, model.labels_only=True, or '
    'test_cfg.fp16=True',
}


def advised(phase: str, call: Callable[[], Any]) -> Callable[[], Any]:
    """``call`` with a :class:`SegformerPlusPlusError` for what the user can mend.

    That is running out of memory, on a GPU or the CPU, and the death of a data loader's worker.

    Args:
        phase: 'train', 'val' or 'test'.
        call: runs it.
    """

    @functools.wraps(call)
    def run() -> Any:
        try:
            try:
                return call()
            except (EOFError, ConnectionError):
                _await_death()
                raise
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is the former
            message = _explain(phase, error)
            if message is None:
                raise
            raise SegformerPlusPlusError(message) from error

    return run


def _await_death(seconds: float = 5.0) -> None:
    """Let PyTorch say that a worker has died, of which a broken connection is the first sign.

    It says so in a handler of signals, which interrupts this one, or when it is asked. The kernel
    closes what a process had open a while before the process is dead.

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
        return f'out of memory in {phase}; what lowers it: {_LESS_MEMORY[phase]}'
    worker = _WORKER.search(text)
    if worker:
        resume = ', and --resume goes on from the latest checkpoint' if phase == 'train' else ''
        return (
            f'a worker of the {phase} data loader died (pid {worker[1]}), most often killed by the '
            f'system for want of memory: fewer {phase}_dataloader.num_workers, a smaller '
            f'prefetch_factor or more memory (in a container: more /dev/shm) help{resume}'
        )
    return None
