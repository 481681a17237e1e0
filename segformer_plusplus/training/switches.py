"""Switches of a config that stand at its top level, so that they can be inherited side by side.

mmengine lets no two bases of a config have a key in common. A base that changed ``optim_wrapper``
or ``model`` could therefore not stand beside the schedule or the model that defines it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner.amp import autocast
from torch import nn

from ..errors import SegformerPlusPlusError

_DTYPES = ('bfloat16', 'float16')


@OPTIM_WRAPPERS.register_module(force=True)
class BFloat16OptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16, on the CPU too.

    mmengine's AmpOptimWrapper insists on an accelerator. bfloat16 has the range of float32, so
    that the loss needs no scaling, which is all that the other one does beside ``autocast``.
    """

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast around the forward pass, beside what the parent does there."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield


def apply_switches(cfg: Config) -> None:
    """Carry out the switches of a config, in place.

    - ``amp``: 'bfloat16' or 'float16' (None: off)
    - ``accumulate``: gradients of that many iterations make one step of the optimizer
    - ``gradient_checkpointing``: recompute the backbone's blocks instead of keeping them

    Raises:
        SegformerPlusPlusError: a value or a config that a switch does not fit.
    """
    if cfg.get('amp'):
        _use_amp(cfg, cfg.amp)
    if cfg.get('accumulate') is not None:
        _accumulate(cfg, cfg.accumulate)
    if cfg.get('gradient_checkpointing'):
        backbone = cfg.model.get('backbone')
        if not backbone or not str(backbone.get('type')).endswith('MixVisionTransformerPlusPlus'):
            raise SegformerPlusPlusError(
                'gradient_checkpointing=True is for MixVisionTransformerPlusPlus; mmengine has '
                "activation_checkpointing=['names', 'of.modules'] for others"
            )
        backbone.with_cp = True


def compile_backbone(model: nn.Module, options: Any) -> None:
    """Carry out ``compile``: the backbone through ``torch.compile``, in place.

    mmengine compiles the whole training step, which is compiled anew in every iteration, since the
    paths of its images and the learning rate are constants to the compiler; after eight times
    PyTorch gives up. What the backbone takes are tensors of one size.

    Args:
        model: not wrapped.
        options: of ``torch.compile``; True for none, None or False for no compiling.

    Raises:
        SegformerPlusPlusError: the options are no dict, or the model has no backbone.
    """
    if options is None or options is False:
        return
    if options is not True and not isinstance(options, dict):
        raise SegformerPlusPlusError(f'compile={options!r}: use True or the arguments of a dict')
    if not hasattr(model, 'backbone'):
        raise SegformerPlusPlusError(f'compile needs a model with a backbone: {type(model)}')
    model.get_submodule('backbone').compile(**({} if options is True else options))


def uncompiled(call: Callable[[], Any]) -> Callable[[], Any]:
    """``call`` without what is compiled: images that are scored come in many sizes."""

    @functools.wraps(call)
    def run() -> Any:
        with torch.compiler.set_stance('force_eager'):
            return call()

    return run


def _use_amp(cfg: Config, dtype: Any) -> None:
    if dtype not in _DTYPES:
        raise SegformerPlusPlusError(f'amp={dtype!r}: use one of {", ".join(_DTYPES)}')
    wrapper = cfg.get('optim_wrapper')
    if wrapper is None:
        return
    names = ('OptimWrapper', 'AmpOptimWrapper', 'BFloat16OptimWrapper')
    known = (*names, OptimWrapper, AmpOptimWrapper, BFloat16OptimWrapper)
    if wrapper.get('type', 'OptimWrapper') not in known:
        raise SegformerPlusPlusError(
            f'amp works with optim_wrapper.type OptimWrapper, not {wrapper.type}'
        )
    if dtype == 'bfloat16':
        for key in ('loss_scale', 'dtype', 'use_fsdp'):  # of float16 only
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


def _accumulate(cfg: Config, count: Any) -> None:
    if type(count) is not int or count < 1:
        raise SegformerPlusPlusError(f'accumulate={count!r} is no number of iterations')
    if cfg.get('optim_wrapper') is not None:
        cfg.optim_wrapper.accumulative_counts = count
