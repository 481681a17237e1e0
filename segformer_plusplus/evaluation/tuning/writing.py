"""The results of a search, and a config that is ready to use."""

from __future__ import annotations

import copy
import inspect
import os
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from ...files import write_json, write_text
from ...inference.configs import find_config
from ...token_merging import PRESETS
from ..plots import Panel, Series, draw_panels
from ..plots import Point as Plotted
from ..results import MEASURES, SPEED_UP, Column, ResultsTable, Row
from ..timing import describe_environment
from .points import Point
from .run import TuneResult
from .space import SIDES

OURS = 'MixVisionTransformerPlusPlus'

_PLAIN = ('mmseg.models.backbones.mit', 'MixVisionTransformer')
"""Known by name, as where models are patched: not every toolbox comes with mmseg."""

FRONT = 'front.json'
PLOT = 'front.png'

SETTING_WIDTH = 44
"""Characters of a setting in the table, which then fits into 80 columns."""

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


def front_table(result: TuneResult) -> ResultsTable:
    """Returns the settings that no other one beats, for the terminal."""
    measure = MEASURES[result.by]
    winner = result.winner.number if result.winner is not None else None
    rows = [
        Row(
            f'{point.number}{"*" if point.number == winner else ""}',
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
    stages: Any = point.token_merging
    return ' | '.join(_describe_stage(stage) for stage in stages)


def _describe_stage(stage: Mapping[str, Any]) -> str:
    sides = [f'{side} {_short(stage[side])}' for side in SIDES if side in stage]
    proportional = ' proportional' if stage.get('proportional_attention') else ''
    return ', '.join(sides) + proportional or '-'


def _short(strategy: Mapping[str, Any]) -> str:
    """Shortens BipartiteSoftMatching2d to BSM2d, and its settings to their first letter."""
    kept = [c for k, c in enumerate(strategy['type']) if c.isupper() or c.isdigit()]
    tail = 'd' if strategy['type'].endswith('d') and kept and kept[-1].isdigit() else ''
    settings = [f'{key[0]}{value}' for key, value in strategy.items() if key != 'type']
    return ' '.join([''.join(kept) + tail, *settings])


def draw_front(path: Path, result: TuneResult, title: str = '') -> None:
    """Draws every trial, the front, the budget, the winner and its check as a PNG.

    Args:
        path: of the picture.
        result: what was found; without a point nothing is drawn but the budget.
        title: above it.
    """
    measure, winner, check = MEASURES[result.by], result.winner, result.check
    rejected = [_plotted(each.point) for each in result.selection.rejected]
    front = [_plotted(point) for point in result.front]
    series = [
        Series([_plotted(p) for p in result.points], 'trial', size=18, colour='0.6'),
        Series(front, 'front', size=32, colour='tab:blue', line='-', steps=True),
        Series(rejected, 'failed the check', marker='x', size=70, colour='tab:red'),
    ]
    if winner is not None:
        label = f'winner, {count_images(result, result.images)}'
        series.append(Series([_plotted(winner)], label, '*', 190, 'tab:red'))
    if winner is not None and check is not None:
        noise = check.drop_noise or 0.0
        point = Plotted(check.speed_up, check.drop, '', check.speed_up_noise, noise)
        label = f'winner, {count_images(result, check.images)} not searched on'
        series.append(Series([point], label, colour='tab:red', filled=False))
    named = {point.number: point.preset or '' for point in result.points}
    names = [Plotted(p.speed_up, p.drop, named[p.number]) for p in result.points]
    series[0] = replace(series[0], points=names)
    limit = _worst_shown(result)
    hidden = sum(point.drop > limit for point in result.points)
    note = f'\n{hidden} trials that lose more are not shown' if hidden else ''
    budget = result.budget
    limits = dict(x=budget.min_speedup) if budget.max_drop is None else dict(y=budget.max_drop)
    what = f'{measure.label} in {measure.unit}'
    panel = Panel(
        f'drop of {measure.label} in points' if measure.higher_is_better else what,
        series,
        less_is_better=True,
        y_limit=limit,
        limits={name: value for name, value in limits.items() if value is not None},
    )
    draw_panels(path, [panel], title + note)


def _plotted(point: Point) -> Plotted:
    return Plotted(point.speed_up, point.drop)


def _worst_shown(result: TuneResult) -> float:
    """Returns the drop up to which points are shown: what is near the budget."""
    marks = [0.0, result.budget.max_drop or 0.0]
    best = result.winner or result.selection.nearest
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
    """Write a config that inherits the user's and merges as the winner does.

    Args:
        path: of the new config.
        base: the user's config.
        cfg: the same, read.
        result: with a winner.
        imports: modules that the winner's strategies stand in.
        cfg_options: with which it was tuned; they are named, not written.
    """
    content: dict[str, Any] = dict(_base_=os.path.relpath(find_config(base), path.parent))
    modules = list((cfg.get('custom_imports') or {}).get('imports') or [])
    ours = ['segformer_plusplus'] if has_plain_backbone(cfg) else []
    missing = [module for module in (*ours, *imports) if module not in modules]
    if missing:
        content['custom_imports'] = dict(imports=[*modules, *missing])
    content['model'] = dict(backbone=_backbone(cfg, result))
    comment = list(describe_winner(result))
    if cfg_options:
        given = ' '.join(f'{key}={value}' for key, value in cfg_options.items())
        comment.append(f'Measured with --cfg-options {given}')
    lines = [line for each in comment for line in textwrap.wrap(each, WIDTH - 2)]
    text = '\n'.join([*(f'# {line}' for line in lines), Config(content).pretty_text])
    write_text(path, text.rstrip('\n') + '\n')


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
