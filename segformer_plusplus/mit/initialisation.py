"""Gives the backbone its first weights: mmseg's, those of an ``init_cfg``, or a file's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from mmengine.model.weight_init import (
    PretrainedInit,
    constant_init,
    initialize,
    normal_init,
    trunc_normal_init,
)
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from ..arguments import FILE, blaming
from ..errors import SegformerPlusPlusError
from ..registration import component


def initialise(model: BaseModule, init_cfg: Any) -> None:
    """Initialises as mmseg's backbone does, or as ``init_cfg`` says.

    Args:
        model: changed in place.
        init_cfg: None, mmengine's dict or a list of them. Files of type 'Pretrained' go last, and
            are loaded strictly.

    Raises:
        SegformerPlusPlusError: an ``init_cfg`` that mmengine cannot follow, or a file that is
            missing or does not fit.
    """
    entries = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    pretrained = [entry for entry in entries if _is_pretrained(entry)]
    others = [entry for entry in entries if entry and not _is_pretrained(entry)]
    if others:
        with blaming(model, dict(init_cfg=(others, lambda cfgs: initialize(model, cfgs)))):
            initialize(model, others)
    elif not pretrained:
        model.apply(_init_module)
    for entry in pretrained:
        _load_pretrained(model, entry)


def _is_pretrained(init_cfg: Mapping[str, Any] | None) -> bool:
    kind = init_cfg.get('type') if init_cfg else None
    return component(kind, WEIGHT_INITIALIZERS) is PretrainedInit


def _load_pretrained(model: nn.Module, init_cfg: Mapping[str, Any]) -> None:
    settings = {key: value for key, value in init_cfg.items() if key != 'type'}
    unknown = set(settings) - {'checkpoint', 'prefix', 'map_location'}
    if unknown or 'checkpoint' not in settings:
        raise SegformerPlusPlusError(
            "init_cfg of type 'Pretrained' takes checkpoint, prefix and map_location, "
            f'found {sorted(settings)}'
        )
    if not FILE.allows(settings['checkpoint']):
        raise SegformerPlusPlusError(
            f'init_cfg: checkpoint={settings["checkpoint"]!r} is not {FILE.words}'
        )
    # by name: reading checkpoints is none of a backbone's business
    WEIGHT_INITIALIZERS.build(dict(type='StrictPretrained', **settings))(model)


def _init_module(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_init(module, std=0.02, bias=0.0)
    elif isinstance(module, nn.LayerNorm):
        constant_init(module, val=1.0, bias=0.0)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        normal_init(module, mean=0, std=math.sqrt(2.0 / (fan_out // module.groups)), bias=0)
