"""segformer-plusplus tune MODEL --max-drop D | --min-speedup S: merging that suits."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console

from ..evaluation.tuning import Budget, Limits, Options, Point, Rejection, TuneResult, tune
from ..evaluation.tuning.writing import (
    count_images,
    describe_drop,
    describe_setting,
    describe_winner,
    front_table,
)
from .given import read_weights
from .guard import INTERRUPTED, interruptible
from .options import CfgOptions, Flat, command

UNMET = 1


@command
@interruptible()
def main(
    config: str,
    checkpoint: str | None = None,
    /,
    *,
    budget: Annotated[Budget | None, Flat] = None,
    limits: Annotated[Limits, Flat] = Limits(),
    options: Annotated[Options, Flat] = Options(),
    cfg_options: CfgOptions = None,
) -> int:
    """Search strategies, ratios and strides for each stage, on your data and this device.

    It finds the fastest setting that loses no more than --max-drop, or the one that loses least of
    those that reach --min-speedup. The presets are tried first. The winner is checked on images
    that it was not searched on.

    A search that was interrupted goes on with the same command; more --trials or another budget go
    on from what was found, too. Exit code: 0, a setting meets the budget; 1, none does (the nearest
    is named); 2, the call is wrong; 130, interrupted.

    Args:
        config: name of a model, see segformer-plusplus models; or a config file.
        checkpoint: weights, of any library that the package reads; a named model has its own.
    """
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # init_weights lists parameters
    console = Console()
    cfg, checkpoint = read_weights(config, checkpoint, cfg_options)
    try:
        result = tune(
            config, checkpoint, cfg_options=cfg_options, progress=True,
            **asdict(budget or Budget()), **asdict(limits), **asdict(options),
        )  # fmt: skip
    except KeyboardInterrupt:
        console.print('interrupted; the same command goes on from here')
        return INTERRUPTED
    print_result(console, result, _next_command(cfg, checkpoint, options.folder), cfg_options)
    if result.interrupted:
        return INTERRUPTED
    return UNMET if result.winner is None else 0


def _next_command(cfg: Config, checkpoint: str, folder: Path | None) -> list[str]:
    if 'pretrained_model' in cfg:
        return ['predict', str(folder), '--out', 'predicted']
    return ['test', checkpoint]


def print_result(
    console: Console,
    result: TuneResult,
    command: Sequence[str],
    cfg_options: Mapping[str, Any] | None,
) -> None:
    """Prints the front, the winner, and what to do next: a command that takes its config."""
    table = front_table(result)
    if table.rows:
        console.print(table.to_rich())
        console.print(table.caption, highlight=False, markup=False)
    lines = [*_describe_failures(result), *_describe_outcome(result)]
    lines += [f'{name}: {path}' for name, path in result.files.items()]
    if 'config' in result.files:
        name, *rest = command
        given = [f'{key}={value}' for key, value in (cfg_options or {}).items()]
        rest += ['--cfg-options', *given] if given else []
        line = shlex.join(['segformer-plusplus', name, str(result.files['config']), *rest])
        lines.append(f'try it: {line}')
    if 'earlier config' in result.files:
        lines.append('the earlier config is of an earlier search; this one has found none')
    for line in lines:
        # a path that is broken into two cannot be copied
        whole = line.startswith(('front: ', 'plot: ', 'config: ', 'earlier config: ', 'try it: '))
        console.print(line, highlight=False, markup=False, soft_wrap=whole)


def _describe_failures(result: TuneResult) -> list[str]:
    if not result.failures:
        return []
    reasons = list(dict.fromkeys(failure.reason for failure in result.failures))
    more = f' (and {len(reasons) - 1} other reasons)' if len(reasons) > 1 else ''
    count = len(result.failures)
    return [f'{count} trial{"" if count == 1 else "s"} could not be measured: {reasons[0]}{more}']


def _describe_outcome(result: TuneResult) -> list[str]:
    lines = [_describe_rejection(result, each) for each in result.rejected]
    if result.interrupted:
        return [*lines, 'interrupted; the same command goes on from here']
    if result.winner is not None:
        return [*lines, *describe_winner(result), *_describe_stages(result.winner)]
    nearest, untried = result.nearest, result.untried
    if nearest is None:
        return [*lines, 'no setting is faster than no merging; nothing meets the budget']
    whole = f'; {untried} more that may were not checked' if untried else ''
    return [
        *lines,
        f'no setting meets the budget{" of those that were checked" if untried else ""}; the '
        f'nearest is trial {nearest.number}: '
        f'{describe_drop(result, nearest.drop)}, speed-up {nearest.speed_up:.2f}{whole}',
        *_describe_stages(nearest),
    ]


def _describe_rejection(result: TuneResult, rejection: Rejection) -> str:
    number, check = rejection.point.number, rejection.check
    if check is None:
        return f'trial {number} was better where it was searched on, but {rejection.reason}'
    return (
        f'trial {number} was better where it was searched on, but on '
        f'{count_images(result, check.images)} beside '
        f'({describe_drop(result, check.drop, check.drop_noise)}, '
        f'speed-up {check.speed_up:.2f}): {rejection.reason}'
    )


def _describe_stages(point: Point) -> list[str]:
    if not isinstance(point.token_merging, list):
        return [f'  {describe_setting(point)}']
    stages = describe_setting(point).split(' | ')
    return [f'  stage {number}: {stage}' for number, stage in enumerate(stages, 1)]
