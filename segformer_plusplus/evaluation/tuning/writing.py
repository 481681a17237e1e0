"""Writes the results of a search, and a config that is ready to use."""

from __future__ import annotations

import copy
import os
import statistics
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
from ...registration import component
from ...token_merging import PRESETS
from ..plots import Panel, Point as Plotted, Series, draw_panels
from ..results import MEASURES, SPEED_UP, Column, ResultsTable, Row
from ..timing import describe_environment
from .selection import TuneResult
from .space import SIDES
from .study import Point

OURS = 'MixVisionTransformerPlusPlus'

_PLAIN = ('mmseg.models.backbones.mit', 'MixVisionTransformer')
"""Known by name, as where models are patched: not every toolbox comes with mmseg."""

SETTING_WIDTH = 44
"""A setting takes so many characters in the table, which then fits into 80 columns."""

WIDTH = 100


def has_plain_backbone(cfg: Config) -> bool:
    """Returns whether the backbone is mmseg's, under whatever name the config calls it."""
    named = ((cfg.get('model') or {}).get('backbone') or {}).get('type')
    kind = component(named, MODELS, cfg.get('default_scope'))
    return kind is not None and (kind.__module__, kind.__name__) == _PLAIN


def with_own_backbone(cfg: Config) -> Config:
    """Returns the config with this package's backbone in place of mmseg's, as a tuned one has it.

    It takes the same arguments and the same weights.
    """
    if has_plain_backbone(cfg):
        cfg = copy.deepcopy(cfg)
        cfg.model.backbone.type = OURS
    return cfg


def write_front(path: Path, result: TuneResult, source: Mapping[str, Any]) -> None:
    """Writes everything that was measured, and how, as JSON."""
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
        winner=result.winner and _point(result.winner),
        check=result.check and asdict(result.check),
        rejected=[
            dict(_point(each.point), check=each.check and asdict(each.check), reason=each.reason)
            for each in result.rejected
        ],
        unchecked=result.unchecked,
        untried=result.untried,
        nearest=result.nearest and _point(result.nearest),
        front=list(map(_point, result.front)),
        trials=list(map(_point, result.points)),
        failed=list(map(asdict, result.failures)),
        environment=describe_environment(),
    )
    write_json(path, content)


def _point(point: Point) -> dict[str, Any]:
    """Returns a point as JSON holds it, with a preset spelt out beside its name."""
    setting = point.token_merging
    way = dict(setting) if isinstance(setting, dict) else {}
    merging = way.pop('token_merging', setting)
    spelt = PRESETS[merging] if isinstance(merging, str) else merging
    preset = merging if isinstance(merging, str) else None
    return {**asdict(point), **way, 'preset': preset, 'token_merging': spelt}


def front_table(result: TuneResult) -> ResultsTable:
    """Returns the settings that no other one beats, for the terminal."""
    measure = MEASURES[result.by]
    rows = [
        Row(
            f'{point.number}{"*" if point == result.winner else ""}',
            point.token_merging,
            point.values,
            point.drop,
            speed_up=point.speed_up,
            more=dict(setting=describe_setting(point)),
        )
        for point in result.front
    ]
    loss = 'drop' if measure.higher_is_better else f'{measure.label} {measure.unit}'
    value = f'{result.baseline[result.by]:.{measure.digits}f} without merging'
    return ResultsTable(
        rows,
        [
            Column(loss, lambda row, _: row.drop, measure.digits),
            SPEED_UP,
            Column('setting', lambda row, _: textwrap.shorten(row.more['setting'], SETTING_WIDTH)),
        ],
        head='trial',
        title=f'{len(result.points)} settings measured on {count_images(result, result.images)}; '
        + (f'{measure.label} {value}' if measure.higher_is_better else 'against no merging'),
        caption='No setting that was measured loses less and is faster than one of these. '
        's: stride, r: ratio. *: the winner. All of each setting stands in front.json.',
    )


def describe_setting(point: Point) -> str:
    """Returns a preset's name, or 'kv BSM2d s2 r0.6 | - | q NM2d s2 | -', a stage each."""
    if point.preset is not None:
        return point.preset
    if isinstance(point.token_merging, dict):
        return ' '.join(map(str, point.token_merging.values()))
    stages: Any = point.token_merging
    return ' | '.join(_describe_stage(stage) for stage in stages)


def _describe_stage(stage: Mapping[str, Any]) -> str:
    sides = [f'{side} {_short(stage[side])}' for side in SIDES if side in stage]
    words = {True: ' proportional', 'sampled': ' sampled'}
    return ', '.join(sides) + words.get(stage.get('proportional_attention'), '') or '-'


def _short(strategy: Mapping[str, Any]) -> str:
    """Shortens BipartiteSoftMatching2d to BSM2d, and its settings to their first letter."""
    kept = [c for k, c in enumerate(strategy['type']) if c.isupper() or c.isdigit()]
    tail = 'd' if strategy['type'].endswith('d') and kept and kept[-1].isdigit() else ''
    settings = [f'{key[0]}{value}' for key, value in strategy.items() if key != 'type']
    return ' '.join([''.join(kept) + tail, *settings])


def draw_front(path: Path, result: TuneResult, title: str = '') -> None:
    """Draws every trial, the front, the budget, the winner and its check as a PNG."""
    measure, winner, check = MEASURES[result.by], result.winner, result.check
    trials = [_plotted(point, point.preset or '') for point in result.points]
    front = list(map(_plotted, result.front))
    rejected = [_plotted(each.point) for each in result.rejected]
    series = [
        Series(trials, 'trial', size=18, colour='0.6'),
        Series(front, 'front', size=32, colour='tab:blue', line='-', steps=True),
        Series(rejected, 'failed the check', 'x', 70, 'tab:red'),
    ]
    if winner is not None:
        label = f'winner, {count_images(result, result.images)}'
        series.append(Series([_plotted(winner)], label, '*', 190, 'tab:red'))
    if winner is not None and check is not None:
        noise = check.drop_noise or 0.0
        point = Plotted(check.speed_up, check.drop, '', check.speed_up_noise, noise)
        label = f'winner, {count_images(result, check.images)} not searched on'
        series.append(Series([point], label, colour='tab:red', filled=False))
    worst = _worst_shown(result)
    hidden = sum(point.drop > worst for point in result.points)
    limits = dict(x=result.budget.min_speedup, y=result.budget.max_drop)
    panel = Panel(
        f'drop of {measure.label} in points'
        if measure.higher_is_better
        else f'{measure.label} in {measure.unit}',
        series,
        less_is_better=True,
        y_limit=worst,
        limits={name: value for name, value in limits.items() if value is not None},
    )
    note = f'\n{hidden} trials that lose more are not shown' if hidden else ''
    draw_panels(path, [panel], title + note)


def _plotted(point: Point, name: str = '') -> Plotted:
    return Plotted(point.speed_up, point.drop, name)


def _worst_shown(result: TuneResult) -> float:
    """Returns the drop up to which points are shown: what is near the budget."""
    marks = [0.0, result.budget.max_drop or 0.0]
    best = result.winner or result.nearest
    if best is not None:
        marks.append(best.drop)
    if result.check is not None:
        marks.append(result.check.drop + (result.check.drop_noise or 0.0))
    drops = [point.drop for point in result.points]
    middle = statistics.median(point.drop for point in result.front) if result.front else 0.0
    return min(max(3 * max(marks), middle), max(drops + marks))


def write_config(
    path: Path,
    base: Path,
    cfg: Config,
    result: TuneResult,
    imports: Sequence[str] = (),
    cfg_options: Mapping[str, Any] | None = None,
) -> None:
    """Writes a config that inherits the user's and merges as the winner does.

    Args:
        path: of the new config.
        base: the user's config, or the name of a model.
        cfg: the same, read.
        result: with a winner.
        imports: modules that the winner's strategies stand in.
        cfg_options: with which it was tuned; they are named, not written.
    """
    assert result.winner is not None
    plain, old = has_plain_backbone(cfg), cfg.model.backbone
    token_merging: Any = result.winner.token_merging
    if isinstance(old.get('token_merging'), dict) and not isinstance(token_merging, str):
        # a list takes the place of a list; of a dict its keys would stay
        token_merging = dict(_delete_=True, stages=token_merging)
    backbone: dict[str, Any] = dict(type=OURS) if plain else {}
    backbone['token_merging'] = token_merging
    if old.get('tome_cfg') is not None:
        backbone['tome_cfg'] = None
    content: dict[str, Any] = {}
    modules = list((cfg.get('custom_imports') or {}).get('imports') or [])
    wanted = [*(['segformer_plusplus'] if plain else []), *imports]
    missing = [module for module in wanted if module not in modules]
    if missing:
        content['custom_imports'] = dict(imports=[*modules, *missing])
    content['model'] = dict(backbone=backbone)
    comment = describe_winner(result)
    if cfg_options:
        given = ' '.join(f'{key}={value}' for key, value in cfg_options.items())
        comment.append(f'Measured with --cfg-options {given}')
    if 'pretrained_model' in cfg:  # there is no file to inherit
        whole = copy.deepcopy(cfg)
        whole.merge_from_dict(content)
    elif Config._is_lazy_import(str(find_config(base))):  # from which no config of names inherits
        whole = Config.fromfile(find_config(base))
        whole.merge_from_dict(content)
    else:
        whole = Config(dict(_base_=os.path.relpath(find_config(base), path.parent), **content))
    lines = [f'# {line}' for each in comment for line in textwrap.wrap(each, WIDTH - 2)]
    write_text(path, '\n'.join([*lines, whole.pretty_text]).rstrip('\n') + '\n')


def describe_winner(result: TuneResult) -> list[str]:
    """Says what was asked for and what was measured, a sentence each."""
    winner, check, measure = result.winner, result.check, MEASURES[result.by]
    assert winner is not None
    if result.budget.max_drop is None:
        least = result.budget.min_speedup
        wanted = f'the setting found that loses least at a speed-up of {least:g} or more'
    elif measure.higher_is_better:
        most = f'at most {result.budget.max_drop:g} points'
        wanted = f'the fastest setting found with a drop of {measure.label} of {most}'
    else:
        most = f'at most {result.budget.max_drop:g} {measure.unit}'
        wanted = f'the fastest setting found with {measure.label} {most}'
    if check is None:
        reason = result.unchecked or 'there is no image that it was not searched on'
        checked = f'Not checked: {reason}.'
    else:
        checked = (
            f'On {count_images(result, check.images)} that it was not searched on: '
            f'{describe_drop(result, check.drop, check.drop_noise)}, '
            f'speed-up {check.speed_up:.2f} +- {check.speed_up_noise:.2f}.'
        )
    height, width = result.shape
    return [
        f'Tuned: {wanted}.',
        f'On the {count_images(result, result.images)} it was searched on: '
        f'{describe_drop(result, winner.drop)}, speed-up {winner.speed_up:.2f}.',
        checked,
        f'Speed: batch 1, {height}x{width}, {result.timed}, on {result.device}, '
        f'torch {torch.__version__}.',
    ]


def describe_drop(result: TuneResult, drop: float, noise: float | None = None) -> str:
    """Returns 'drop of mIoU 0.08 +- 0.03 points', or 'changed 0.80 %'."""
    measure = MEASURES[result.by]
    number = f'{drop + 0.0:.{measure.digits}f}'
    if noise is not None:
        number += f' +- {noise:.{measure.digits}f}'
    if measure.higher_is_better:
        return f'drop of {measure.label} {number} points'
    return f'{measure.label} {number} {measure.unit}'


def count_images(result: TuneResult, count: int) -> str:
    """Returns '1 image' or '20 people'."""
    one, more = ('image', 'images') if 'shift' not in result.baseline else ('person', 'people')
    return f'{count} {one if count == 1 else more}'
