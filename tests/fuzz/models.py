"""Shipped configs with a tiny model, edited as people mistype them, and what becomes of them."""

from __future__ import annotations

import contextlib
import copy
import math
import re
import signal
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from segformer_plusplus import CheckpointError, SegformerPlusPlusError

ROOT = Path(__file__).parents[2] / 'configs'
CONFIGS = dict(
    mmseg='cityscapes/segformer_mit-b0_hq_1xb4-160k_cityscapes-1024x1024.py',
    mmpose='jbd/td-hm_mit-b0_hq_1xb16-210e_jbd-640x480.py',
)
HEADS = dict(mmseg='decode_head', mmpose='head')
TINY = dict(
    arch=None,
    embed_dims=8,
    num_stages=4,
    num_layers=[1, 1, 1, 1],
    num_heads=[1, 2, 5, 8],
    patch_sizes=[7, 3, 3, 3],
    strides=[4, 2, 2, 2],
    sr_ratios=[8, 4, 2, 1],
    mlp_ratio=4,
    qkv_bias=True,
    act_cfg=dict(type='GELU'),
    norm_cfg=dict(type='LN', eps=1e-6),
    with_cp=False,
    pretrained=None,
    init_cfg=None,
)
DELETED = '<deleted>'
KNOWN = (TypeError, KeyError, ValueError, IndexError, AssertionError, NotImplementedError,
         AttributeError, RuntimeError)  # fmt: skip
"""What mmengine, the toolboxes and torch raise about keys of theirs; the message decides."""


@cache
def _read(scope: str) -> dict[str, Any]:
    model = Config.fromfile(ROOT / CONFIGS[scope]).model.to_dict()
    model['backbone'].update(TINY)
    head = model[HEADS[scope]]
    head.update(in_channels=[8, 16, 40, 64], channels=16)
    return model


def config(scope: str) -> dict[str, Any]:
    """The model of a shipped config, made small."""
    return copy.deepcopy(_read(scope))


CONSEQUENCES = {
    'embed_dims': ['in_channels'],
    'num_heads': ['in_channels'],
    'arch': ['in_channels'],
    'out_indices': ['in_index', 'in_channels'],
    'in_index': ['in_channels'],
    'strides': ['sr_ratios'],
    'patch_sizes': ['sr_ratios'],
}
"""Keys that are right by themselves, and where it shows that they do not go with the rest."""

MISTAKES: list[Any] = [
    DELETED, None, True, 0, -1, 1, 3, 0.5, -0.5, 1.5, math.nan, math.inf, '4', 'b7', 'hq', '',
    [], [4], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5], [0, 0, 0, 0], [-1, 1, 2, 3],
    ['a', 'b', 'c', 'd'], [2.5, 1, 1, 1], [None] * 4, [[1], [2], [3], [4]],
    {}, dict(type='Nope'), dict(type=3), dict(type=''), dict(x=1), [dict(type='Nope')],
    dict(stages=[]), dict(type='LN'), dict(type='BN'), dict(type='GN', num_groups=3),
    dict(type='ReLU'), dict(type='GELU', size=2), dict(type='Softplus'),
    dict(type='CrossEntropyLoss', class_weight=3), dict(type='KeypointMSELoss', weight=2),
    dict(type='MSRAHeatmap', input_size=(480, 640)), dict(kernel_size=0), dict(kernel_size='3'),
    dict(type='OHEMPixelSampler', thresh='x'), dict(type='Pretrained'), dict(type='Normal', sd=1),
    dict(type='Pretrained', checkpoint=3), dict(type='Constant', layer='Conv2d', val='x'),
    'nearest', 'bilinear', 'trilinear', 'area', 'missing.pth',
]  # fmt: skip
"""Of the wrong kind, the wrong sign, the wrong length; for some keys one of them is right."""

values = st.one_of(
    st.sampled_from(MISTAKES),
    st.integers(-3, 40),
    st.floats(-2, 2),
    st.text('abcLNGEU0123_ ', max_size=4),
    st.lists(st.integers(-1, 9), max_size=5),
)


def edit(model: dict[str, Any], part: str, key: str, value: Any) -> None:
    if value == DELETED:
        model[part].pop(key, None)
    else:
        model[part][key] = copy.deepcopy(value)


def run(scope: str, model: dict[str, Any]) -> None:
    """Build, initialise, infer, take a training step; raises unless all numbers are finite."""
    import_module(f'{scope}.models')  # takes seconds the first time, which are not the model's
    with limited(4):
        _run(scope, model)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise where the processor is busy for longer: a hundred times what is usual is a hang."""

    def stop(*_: Any) -> None:
        raise HangError(f'not done after {seconds} s')

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class HangError(Exception):
    """Neither a model nor an error."""


def _run(scope: str, model: dict[str, Any]) -> None:
    init_default_scope(scope)
    torch.manual_seed(0)
    built = revert_sync_batchnorm(MODELS.build(dict(model, _scope_=scope)))
    built.init_weights()
    image = torch.randn(2, 3, 64, 64)

    def forward() -> torch.Tensor:
        return built(image, None, mode='tensor')

    with torch.no_grad():
        _check(built.eval() and forward(), 'output')
    if built.backbone.patch_sizes[0] == 1 and 'AVX2' in torch.backends.cpu.get_cpu_capability():
        # oneDNN on AVX2 (torch 2.15) writes past the gradient of three channels that a kernel of
        # one pixel steps over by four: the process ends. A convolution alone does the same.
        return
    result = built.train() and forward()
    result.square().mean().backward()
    for name, parameter in built.named_parameters():
        if parameter.grad is not None:
            _check(parameter.grad, f'gradient of {name}')


def _check(tensor: torch.Tensor, what: str) -> None:
    if not torch.isfinite(tensor).all():
        raise NotFiniteError(f'{what} is not finite')


class NotFiniteError(Exception):
    """A model that works gives no numbers: never right."""


def complaint(error: Exception, edits: list[tuple[str, Any]]) -> str | None:
    """What is wrong with an error after edits (key, value): None if it names one of them."""
    message = str(error)
    if isinstance(error, SegformerPlusPlusError) and '\n' in message:
        return f'an error of ours has more than one line: {message}'
    keys = [name for key, _ in edits for name in (key, *CONSEQUENCES.get(key, ()))]
    if any(_names(message, key) for key in keys):
        return None
    # mmengine names the name that it does not find, we the file; all others name the key
    by_value = isinstance(error, CheckpointError) or not isinstance(error, SegformerPlusPlusError)
    if by_value and any(_names_value(message, value) for _, value in edits):
        return None
    return f'{type(error).__name__} does not name what is wrong in {edits}: {message[:300]}'


def _names(message: str, word: str) -> bool:
    return re.search(rf'(?<!\w){re.escape(word)}(?!\w)', message) is not None


def _names_value(message: str, value: Any) -> bool:
    if value == DELETED or value == '':
        return False
    texts = [repr(value)]
    if isinstance(value, list):
        texts.append(repr(tuple(value)))
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return any(_names_value(message, entry) for entry in value)
    if isinstance(value, dict):
        texts += [v for v in value.values() if isinstance(v, str) and v] + [repr(k) for k in value]
    if isinstance(value, str):
        texts.append(value)
    return any(_names(message, text) for text in texts)
