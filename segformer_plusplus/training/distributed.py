"""Several processes, with GPUs or without: how they meet, share out a model, and part."""

from __future__ import annotations

import contextlib
import datetime
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import broadcast
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import FUNCTIONS
from torch import nn
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    StateDictType,
)

from ..errors import SegformerPlusPlusError
from ..mit.backbone import MixTransformerBlock


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


@FUNCTIONS.register_module(force=True)
def wrap_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """An ``auto_wrap_policy``: each block of the backbone is gathered when it is its turn."""
    return recurse or isinstance(module, MixTransformerBlock)


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds only a part of the parameters."""
    return isinstance(model, FullyShardedDataParallel)


def wants_sharding(wrapper: dict[str, Any] | None) -> bool:
    """Whether a config's ``model_wrapper_cfg`` asks for FSDP."""
    return 'FullySharded' in str((wrapper or {}).get('type'))


def check_sharding(cfg: Config) -> None:
    """Refuse what would leave processes waiting for each other, or what does not work with FSDP.

    Raises:
        SegformerPlusPlusError: names the key.
    """
    for name in ('val', 'test'):
        loader = cfg.get(f'{name}_dataloader') or {}
        if (loader.get('sampler') or {}).get('round_up', True) is False:
            raise SegformerPlusPlusError(
                f'{name}_dataloader.sampler.round_up=False does not go with FSDP, where every '
                'process needs as many batches as the others: leave it out'
            )
    if (cfg.get('optim_wrapper') or {}).get('clip_grad'):
        raise SegformerPlusPlusError(
            'optim_wrapper.clip_grad does not go with FSDP, where it would clip each part by a '
            'norm of its own: leave out one of the two'
        )
    if cfg.get('compile'):
        raise SegformerPlusPlusError('compile does not go with FSDP: leave out one of the two')
    if any('EMAHook' in str(hook.get('type')) for hook in cfg.get('custom_hooks') or []):
        raise SegformerPlusPlusError('EMAHook does not go with FSDP: leave out one of the two')


def init_before_sharding(model: nn.Module) -> None:
    """Initialise the weights, the same in all processes, while they still have their shapes."""
    if hasattr(model, 'init_weights'):
        init: Any = model.init_weights
        init()
    for tensor in model.state_dict().values():
        broadcast(tensor)


@contextlib.contextmanager
def whole(model: nn.Module, main_only: bool = False) -> Iterator[None]:
    """Lets ``state_dict`` and ``load_state_dict`` of a sharded model speak of whole tensors.

    All processes have to come here.

    Args:
        model: the FSDP wrapper.
        main_only: what comes out is there in the main process only.
    """
    # On a CPU "offloading" leaves out the copy: every state of the optimizer would be a view of
    # one buffer that the next one overwrites (torch.distributed.fsdp._optim_utils).
    options = dict(offload_to_cpu=_device_type(model) != 'cpu', rank0_only=main_only)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)
        with FullyShardedDataParallel.state_dict_type(
            model,
            StateDictType.FULL_STATE_DICT,
            FullStateDictConfig(**options),
            FullOptimStateDictConfig(**options),
        ):
            yield


def gather_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The whole state of an optimizer in the main process, as of one without FSDP.

    FSDP calls the parameters by name, an optimizer by their number in its groups.
    """
    with whole(model, main_only=True):
        state = FullyShardedDataParallel.optim_state_dict(model, optimizer)
    if not state:
        return {}
    numbers = {name: number for number, name in enumerate(_names(state))}
    groups = [
        {**group, 'params': [numbers[name] for name in group['params']]}
        for group in state['param_groups']
    ]
    return {'state': {numbers[k]: v for k, v in state['state'].items()}, 'param_groups': groups}


def shard_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> dict[str, Any]:
    """The other way round: each process its part of a whole state."""
    with whole(model):
        fresh = FullyShardedDataParallel.optim_state_dict(model, optimizer)
        names = _names(fresh)
        groups = [
            {**group, 'params': [names[number] for number in group['params']]}
            for group in state['param_groups']
        ]
        by_name = {
            'state': {names[number]: value for number, value in state['state'].items()},
            'param_groups': groups,
        }
        return FullyShardedDataParallel.optim_state_dict_to_load(model, optimizer, by_name)


@contextlib.contextmanager
def gathered(model: Any, optim_wrapper: Any) -> Iterator[None]:
    """Lets mmengine save a sharded model as it saves any other.

    All processes have to come here. Inside, the main process' ``model.module.state_dict()`` and
    ``optim_wrapper.state_dict()`` are the whole ones.
    """
    with whole(model, main_only=True):
        weights = model.state_dict()
    optimizer = gather_optimizer(model, optim_wrapper.optimizer)
    for key in ('base_param_settings', 'loss_scaler'):
        own = getattr(optim_wrapper, key, None)
        if own is not None:
            optimizer[key] = own.state_dict() if key == 'loss_scaler' else own
    model.module.state_dict = lambda: weights
    optim_wrapper.state_dict = lambda: optimizer
    try:
        yield
    finally:
        del model.module.state_dict, optim_wrapper.state_dict


def _device_type(model: nn.Module) -> str:
    return next(model.parameters()).device.type


def _names(state: dict[str, Any]) -> list[str]:
    return [name for group in state['param_groups'] for name in group['params']]
