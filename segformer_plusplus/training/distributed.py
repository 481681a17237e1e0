"""Several processes, with GPUs or without: how they meet and part, and how a model is unwrapped."""

from __future__ import annotations

import contextlib
import datetime
import gc
import os
from collections.abc import Iterator

import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from ..errors import SegformerPlusPlusError


def init_gloo(launcher: str, timeout: int | None = None) -> None:
    """Joins the processes through gloo; mmengine's ``init_dist`` would set a CUDA device first.

    Args:
        launcher: 'pytorch' or 'slurm', which have set the environment.
        timeout: seconds that the processes wait for each other; None is PyTorch's default.

    Raises:
        SegformerPlusPlusError: another launcher, or a variable that it should set is missing.
    """
    if launcher not in ('pytorch', 'slurm'):
        raise SegformerPlusPlusError(f'--launcher {launcher} needs a GPU in every process')
    if launcher == 'slurm':
        for name, slurms in dict(RANK='PROCID', WORLD_SIZE='NTASKS', LOCAL_RANK='LOCALID').items():
            if f'SLURM_{slurms}' in os.environ:
                os.environ[name] = os.environ[f'SLURM_{slurms}']
        os.environ.setdefault('MASTER_PORT', '29500')
    needed = ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise SegformerPlusPlusError(
            f'--launcher {launcher}: {", ".join(missing)} not in the environment; start with '
            'torchrun (pytorch) or srun (slurm), see docs/scaling.md'
        )
    os.environ.setdefault('LOCAL_RANK', '0')
    waits = None if timeout is None else datetime.timedelta(seconds=timeout)
    torch.distributed.init_process_group('gloo', timeout=waits)


@contextlib.contextmanager
def leaving_the_group() -> Iterator[None]:
    """Leaves the other processes at the end; gloo's threads abort a process that just exits.

    What runs inside has to be gone by then: a wrapped model that outlives it holds the group.
    """
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            gc.collect()  # a runner and its model know each other
            torch.distributed.destroy_process_group()


def unwrap(model: nn.Module) -> nn.Module:
    """Takes a model out of the wrappers for parallel training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.get_submodule('module')
    return model
