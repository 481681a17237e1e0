"""Carries out the switches that stand at the top level of a config.

mmengine lets no two bases of a config have a key in common. A base that changed ``optim_wrapper``
or ``model`` could therefore not stand beside the schedule or the model that defines it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import MODELS, OPTIM_WRAPPERS
from mmengine.runner.amp import autocast
from torch import nn

from ..errors import SegformerPlusPlusError
from ..mit.backbone import MixTransformerBlock
from ..registration import component, component_name, component_names

ADAPTING_RATE = 0.1
"""Is the share of a config's learning rate that ``adapt`` starts with; it falls to 0."""

_DTYPES = ('bfloat16', 'float16')


@OPTIM_WRAPPERS.register_module(force=True)
class BFloat16OptimWrapper(OptimWrapper):
    """Trains in mixed precision with bfloat16, on the CPU too.

    mmengine's AmpOptimWrapper insists on an accelerator. Beside ``autocast`` it only scales the
    loss, which bfloat16 does not need, since it has the range of float32.
    """

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Runs the forward pass under autocast, inside the parent's context."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield


def apply_switches(cfg: Config) -> None:
    """Carries out the switches of a config, in place.

    - ``amp``: 'bfloat16' or 'float16' (None: off)
    - ``accumulate``: gradients of that many iterations make one step of the optimizer
    - ``gradient_checkpointing``: what the backbone computes again instead of keeping: its
      ``with_cp``
    - ``adapt``: that many iterations in the place of the schedule, from weights that are loaded

    Raises:
        SegformerPlusPlusError: a value is wrong, or the config does not fit a switch.
    """
    if cfg.get('amp'):
        _use_amp(cfg, cfg.amp)
    if cfg.get('accumulate') is not None:
        count = cfg.accumulate
        if type(count) is not int or count < 1:
            raise SegformerPlusPlusError(f'accumulate={count!r} is no number of iterations')
        if cfg.get('optim_wrapper') is not None:
            cfg.optim_wrapper.accumulative_counts = count
    if cfg.get('gradient_checkpointing'):
        # that of a model for test-time augmentation is inside
        backbone = (cfg.model.get('module') or cfg.model).get('backbone')
        names = component_names((backbone or {}).get('type'), MODELS)
        if 'MixVisionTransformerPlusPlus' not in names:
            raise SegformerPlusPlusError(
                'gradient_checkpointing=True is for MixVisionTransformerPlusPlus; mmengine has '
                "activation_checkpointing=['names', 'of.modules'] for others"
            )
        backbone.with_cp = cfg.gradient_checkpointing
    if cfg.get('adapt') is not None:
        _adapt(cfg, cfg.adapt)


def _adapt(cfg: Config, iterations: Any) -> None:
    if type(iterations) is not int or iterations < 1:
        raise SegformerPlusPlusError(f'adapt={iterations!r} is no number of iterations')
    if not cfg.get('load_from'):
        raise SegformerPlusPlusError(
            f'adapt={iterations} adapts trained weights to a strategy: name them, load_from=...'
        )
    if cfg.get('optim_wrapper') is None:  # nothing is trained
        return
    optimizer: Any = cfg.optim_wrapper.get('optimizer') or {}
    if 'lr' not in optimizer:
        raise SegformerPlusPlusError('adapt needs a learning rate: optim_wrapper.optimizer.lr')
    optimizer.lr *= ADAPTING_RATE
    cfg.param_scheduler = [
        dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=0, end=iterations)
    ]
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations)
    hooks = cfg.get('default_hooks') or {}
    for place, changes in (
        (hooks.get('checkpoint'), dict(by_epoch=False, interval=iterations)),
        (hooks.get('logger'), dict(log_metric_by_epoch=False)),
        (cfg.get('log_processor'), dict(by_epoch=False)),
    ):
        if isinstance(place, dict):
            place.update(changes)
    cfg.pop('adapt')  # a config that is written and read again is not adapted twice


def _use_amp(cfg: Config, dtype: Any) -> None:
    if dtype not in _DTYPES:
        raise SegformerPlusPlusError(f'amp={dtype!r}: use one of {", ".join(_DTYPES)}')
    wrapper = cfg.get('optim_wrapper')
    if wrapper is None:
        return
    classes = (OptimWrapper, AmpOptimWrapper, BFloat16OptimWrapper)
    if component(wrapper.get('type', OptimWrapper), OPTIM_WRAPPERS) not in classes:
        raise SegformerPlusPlusError(
            f'amp works with optim_wrapper.type OptimWrapper, not {component_name(wrapper.type)}'
        )
    if dtype == 'bfloat16':
        for key in ('loss_scale', 'dtype', 'use_fsdp'):  # mean something for float16 only
            wrapper.pop(key, None)
        wrapper.type = 'BFloat16OptimWrapper'
        return
    if get_device() == 'cpu':
        raise SegformerPlusPlusError(
            'amp=float16 (--amp) needs an accelerator, and none is available here; amp=bfloat16 '
            '(configs/_base_/runtime/amp_bf16.py) works on the CPU too'
        )
    wrapper.setdefault('loss_scale', 'dynamic')
    wrapper.update(type='AmpOptimWrapper', dtype='float16')


def compile_backbone(model: nn.Module, options: Any) -> None:
    """Compiles a model's backbone in place, as the config's ``compile`` says.

    mmengine would compile the whole training step, which PyTorch compiles again in every iteration,
    since the paths of the images and the learning rate are constants to the compiler; after eight
    times it gives up. The backbone takes only tensors of one size.

    ``blocks=True`` among the options compiles attention and Mix-FFN of every block by themselves.
    Blocks of a stage share what is compiled, which takes a fraction of the time. Not the blocks as
    a whole: each has a rate of its drop path, which is a constant to the compiler.

    Args:
        model: not wrapped.
        options: 'blocks' and arguments of ``torch.compile``; True for none, None or False for no
            compiling.

    Raises:
        SegformerPlusPlusError: the options are no dict, or the model has no such backbone.
    """
    if options is None or options is False:
        return
    if options is not True and not isinstance(options, dict):
        raise SegformerPlusPlusError(f'compile={options!r}: use True or the arguments of a dict')
    if not hasattr(model, 'backbone'):
        raise SegformerPlusPlusError(f'compile needs a model with a backbone: {type(model)}')
    backbone = model.get_submodule('backbone')
    settings = {} if options is True else dict(options)
    parts = [backbone]
    if settings.pop('blocks', False):
        blocks = [each for each in backbone.modules() if isinstance(each, MixTransformerBlock)]
        if not blocks:
            raise SegformerPlusPlusError(
                f'compile.blocks=True is for MixVisionTransformerPlusPlus, not {type(backbone)}'
            )
        parts = [part for block in blocks for part in (block.attn, block.ffn)]
    for part in parts:
        part.compile(**settings)
