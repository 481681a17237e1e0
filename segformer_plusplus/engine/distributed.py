"""Several processes, with GPUs or without: how they meet, share out a model, and part."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper, revert_sync_batchnorm
from torch import nn

from ..errors import SegformerPlusPlusError
from .sharding import check_sharding, init_before_sharding, wants_sharding


def init_gloo(launcher: str, timeout: int | None = None) -> None:
    """mmengine's ``init_dist``, which sets a CUDA device first, for processes without one.

    Args:
        launcher: 'pytorch' or 'slurm', which have set the environment.
        timeout: seconds that the processes wait for each other; None is PyTorch's default.

    Raises:
        SegformerPlusPlusError: another launcher, or what it sets is missing.
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
    options: dict[str, Any] = {}
    if timeout is not None:
        options['timeout'] = datetime.timedelta(seconds=timeout)
    torch.distributed.init_process_group('gloo', **options)


@contextlib.contextmanager
def leaving_the_group() -> Iterator[None]:
    """Takes leave of the other processes in the end; gloo's threads abort one that just exits."""
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def prepare_wrapping(
    wrapper: dict[str, Any] | None, model: nn.Module, cfg: Config
) -> tuple[dict[str, Any] | None, nn.Module]:
    """What mmengine's ``wrap_model`` needs to wrap a model on the CPU too, or in FSDP.

    Args:
        wrapper: the config's ``model_wrapper_cfg``.
        model: not wrapped yet.
        cfg: the whole config.

    Returns:
        The wrapper's config, None for mmengine's own, and the model with initial weights if it
        will be sharded.

    Raises:
        SegformerPlusPlusError: the config has what does not go with FSDP.
    """
    given = dict(wrapper or {})
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        print_log('SyncBN needs a GPU: each process goes by its own statistics', logger='current')
        model = revert_sync_batchnorm(model)
    if wants_sharding(given):
        check_sharding(cfg)
        init_before_sharding(model)
        device = 'cpu' if on_cpu else f'cuda:{os.environ["LOCAL_RANK"]}'
        given.setdefault('device_id', torch.device(device))
    elif on_cpu:
        given.setdefault('type', 'MMDistributedDataParallel')
        given.setdefault('device_ids', None)
        if wrapper is None:  # as mmengine has it with GPUs
            unused = cfg.get('find_unused_parameters', False)
            given.update(broadcast_buffers=False, find_unused_parameters=unused)
    return given or None, model


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, out of the wrappers for parallel training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.get_submodule('module')
    return model
