"""The results of a search, and a config that is ready to use."""

from __future__ import annotations

import copy
import inspect
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from ...files import write_json, write_text
from ...inference.configs import find_config
from ...token_merging import PRESETS
from ..fidelity import MEASURES
from ..timing import describe_environment
from .points import Point
from .run import TuneResult

OURS = 'MixVisionTransformerPlusPlus'

_PLAIN = ('mmseg.models.backbones.mit', 'MixVisionTransformer')
"""Known by name, as where models are patched: not every toolbox comes with mmseg."""

FRONT = 'front.json'

WIDTH = 100

_NO_IMAGES = 'there is no image that it was not searched on'


def has_plain_backbone(cfg: Config) -> bool:
    """Whether the backbone is mmseg's, under whatever name the config calls it."""
    kind: Any = ((cfg.get('model') or {}).get('backbone') or {}).get('type')
    if not inspect.isclass(kind):
        with MODELS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            kind = registry.get(str(kind))
    return kind is not None and (kind.__module__, kind.__name__) == _PLAIN


def with_own_backbone(cfg: Config) -> Config:
    """The config as one with a winner runs it: this package's backbone in place of mmseg's.

    It takes the same arguments and the same weights.
    """
    if has_plain_backbone(cfg):
        cfg = copy.deepcopy(cfg)
        cfg.model.backbone.type = OURS
    return cfg


def write_front(path: Path, result: TuneResult, source: Mapping[str, Any]) -> None:
    """Write everything that was measured.

    Args:
        path: of the JSON file.
        result: what was found.
        source: the config, the checkpoint and how they were tuned.
    """
    winner, nearest = result.winner, result.selection.nearest
    check = result.check
    content = dict(
        source=source,
        budget=asdict(result.budget),
        measure=result.by,
        images=dict(searched=result.images, check=result.check_images),
        shape=result.shape,
        timed=result.timed,
        device=result.device,
        baseline=result.baseline,
        interrupted=result.interrupted,
        winner=None if winner is None else _point(winner),
        check=None if check is None else asdict(check),
        rejected=[
            dict(
                _point(each.point),
                check=None if each.check is None else asdict(each.check),
                reason=each.reason,
            )
            for each in result.selection.rejected
        ],
        unchecked=result.selection.unchecked,
        untried=result.selection.untried,
        nearest=None if nearest is None else _point(nearest),
        front=[_point(point) for point in result.front],
        trials=[_point(point) for point in result.points],
        failed=[asdict(failure) for failure in result.failures],
        environment=describe_environment(),
    )
    write_json(path, content)


def write_config(
    path: Path,
    base: Path,
    cfg: Config,
    result: TuneResult,
    imports: Sequence[str] = (),
    cfg_options: Mapping[str, Any] | None = None,
) -> None:
    """Write a config that inherits the user's and merges as the winner does.

    Args:
        path: of the new config.
        base: the user's config.
        cfg: the same, read.
        result: with a winner.
        imports: modules that the winner's strategies stand in.
        cfg_options: with which it was tuned; they are named, not written.
    """
    parts = [f'_base_ = {os.path.relpath(find_config(base), path.parent)!r}']
    modules = list((cfg.get('custom_imports') or {}).get('imports') or [])
    ours = ['segformer_plusplus'] if has_plain_backbone(cfg) else []
    missing = [module for module in (*ours, *imports) if module not in modules]
    if missing:
        parts.append(f'custom_imports = {literal(dict(imports=[*modules, *missing]))}')
    parts.append(f'model = {literal(dict(backbone=_backbone(cfg, result)))}')
    comment = list(describe_winner(result))
    if cfg_options:
        given = ' '.join(f'{key}={value}' for key, value in cfg_options.items())
        comment.append(f'Measured with --cfg-options {given}')
    lines = [line for each in comment for line in textwrap.wrap(each, WIDTH - 2)]
    write_text(path, '\n'.join([*(f'# {line}' for line in lines), *parts]) + '\n')


def _backbone(cfg: Config, result: TuneResult) -> dict[str, Any]:
    """What the new config changes in the backbone."""
    assert result.winner is not None
    old: Any = cfg.model.backbone
    token_merging: Any = result.winner.token_merging
    if isinstance(old.get('token_merging'), dict) and not isinstance(token_merging, str):
        # a list takes the place of a list; of a dict its keys would stay
        token_merging = dict(_delete_=True, stages=token_merging)
    backbone: dict[str, Any] = dict(type=OURS) if has_plain_backbone(cfg) else {}
    backbone['token_merging'] = token_merging
    if old.get('tome_cfg') is not None:
        backbone['tome_cfg'] = None
    return backbone


def describe_winner(result: TuneResult) -> list[str]:
    """What was asked for and what was measured, a sentence each."""
    winner, check = result.winner, result.check
    assert winner is not None
    if result.budget.max_drop is not None:
        wanted = f'the fastest setting found with {_limit(result)}'
    else:
        wanted = (
            f'the setting found that loses least at a speed-up of {result.budget.min_speedup:g} '
            'or more'
        )
    height, width = result.shape
    return [
        f'Tuned: {wanted}.',
        f'On the {count_images(result, result.images)} it was searched on: '
        f'{describe_drop(result, winner.drop)}, speed-up {winner.speed_up:.2f}.',
        f'Not checked: {result.selection.unchecked or _NO_IMAGES}.'
        if check is None
        else f'On {count_images(result, check.images)} that it was not searched on: '
        f'{describe_drop(result, check.drop, check.drop_noise)}, '
        f'speed-up {check.speed_up:.2f} +- {check.speed_up_noise:.2f}.',
        f'Speed: batch 1, {height}x{width}, {result.timed}, on {result.device}, '
        f'torch {torch.__version__}.',
    ]


def describe_drop(result: TuneResult, drop: float, noise: float | None = None) -> str:
    """'drop of mIoU 0.08 +- 0.03 points', or 'changed 0.80 %'."""
    measure = MEASURES[result.by]
    number = f'{drop + 0.0:.{measure.digits}f}'
    if noise is not None:
        number += f' +- {noise:.{measure.digits}f}'
    if measure.higher_is_better:
        return f'drop of {measure.label} {number} points'
    return f'{measure.label} {number} {measure.unit}'


def _limit(result: TuneResult) -> str:
    measure = MEASURES[result.by]
    most = f'at most {result.budget.max_drop:g}'
    if measure.higher_is_better:
        return f'a drop of {measure.label} of {most} points'
    return f'{measure.label} {most} {measure.unit}'


def count_images(result: TuneResult, count: int) -> str:
    """'1 image', '20 people'."""
    one, more = ('image', 'images') if 'shift' not in result.baseline else ('person', 'people')
    return f'{count} {one if count == 1 else more}'


def _point(point: Point) -> dict[str, Any]:
    """As JSON, with a preset spelt out beside its name."""
    setting = point.token_merging
    spelt = PRESETS[setting] if isinstance(setting, str) else setting
    return {**asdict(point), 'preset': point.preset, 'token_merging': spelt}


def literal(value: Any, indent: int = 0, before: int = 0) -> str:
    """Python source in the style of the configs: a stage to a line, no line too long.

    Args:
        value: dicts, lists and plain values.
        indent: spaces before the closing bracket.
        before: characters that stand before it on its line.
    """
    flat = _flat(value)
    if not isinstance(value, Mapping | list) or not value:
        return flat
    if not _holds_dicts(value) and before + len(flat) < WIDTH:
        return flat
    pad = ' ' * (indent + 4)
    if isinstance(value, Mapping):
        items = [(f'{key}=', each) for key, each in value.items()]
        opening, closing = 'dict(', ')'
    else:
        items = [('', each) for each in value]
        opening, closing = '[', ']'
    lines = [
        pad + prefix + literal(each, indent + 4, len(pad + prefix) + 1) + ',\n'
        for prefix, each in items
    ]
    return opening + '\n' + ''.join(lines) + ' ' * indent + closing


def _holds_dicts(value: Any) -> bool:
    """Whether a list of dicts stands in it, the stages."""
    if isinstance(value, Mapping):
        return any(map(_holds_dicts, value.values()))
    return isinstance(value, list) and any(isinstance(each, Mapping) for each in value)


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        items = ', '.join(f'{key}={_flat(each)}' for key, each in value.items())
        return f'dict({items})' if value else '{}'
    if isinstance(value, list):
        return f'[{", ".join(map(_flat, value))}]'
    return repr(value)
