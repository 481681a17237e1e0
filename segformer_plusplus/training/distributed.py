"""Several processes, with GPUs or without: how they meet, wrap a model, and part."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper, revert_sync_batchnorm
from torch import nn

from ..errors import SegformerPlusPlusError


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


def wrap_on_cpu(
    model: nn.Module, settings: dict[str, Any] | None, find_unused: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """Prepares a model and its wrapper for processes without a GPU.

    Args:
        model: not wrapped yet; its SyncBN becomes BN.
        settings: the config's ``model_wrapper_cfg``; None means mmengine's own settings.
        find_unused: the config's ``find_unused_parameters``, for mmengine's own settings.

    Returns:
        The model, and the arguments that mmengine's ``wrap_model`` takes.
    """
    print_log('SyncBN needs a GPU: each process goes by its own statistics', logger='current')
    if settings is None:
        settings = dict(broadcast_buffers=False, find_unused_parameters=find_unused)
    wrapper = {'type': 'MMDistributedDataParallel', 'device_ids': None, **settings}
    return revert_sync_batchnorm(model), wrapper


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, out of the wrappers for parallel training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.get_submodule('module')
    return model


def refuse_sharding(wrapper: dict[str, Any] | None) -> None:
    """Refuses FSDP, whose weights and optimizer mmengine's Runner can neither initialise nor save.

    Args:
        wrapper: the config's ``model_wrapper_cfg``.

    Raises:
        SegformerPlusPlusError: it asks for FSDP.
    """
    kind = (wrapper or {}).get('type')
    if 'FullySharded' in str(kind):
        raise SegformerPlusPlusError(
            f'model_wrapper_cfg.type={kind}: this Runner does not shard a model; leave '
            "model_wrapper_cfg out for DistributedDataParallel, or train with mmengine's "
            "FlexibleRunner and strategy=dict(type='FSDPStrategy')"
        )
