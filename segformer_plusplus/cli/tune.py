"""tune CONFIG CHECKPOINT --max-drop D | --min-speedup S: the merging that suits a model."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

from ..evaluation.fidelity import MEASURES
from ..evaluation.tuning import Point, Rejection, TuneResult, tune
from ..evaluation.tuning.run import MOST_IMAGES, ROUNDS, TRIALS
from ..evaluation.tuning.space import SIDES
from ..evaluation.tuning.writing import count_images, describe_drop, describe_winner
from .benchmark import INTERRUPTED
from .guard import interruptible, main_guard
from .options import add_config_arguments, parse_positive

UNMET = 1

SETTING_WIDTH = 44
"""Characters of a setting in the table, which then fits into 80 columns."""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description='Search strategies, ratios and strides for each stage, on your data and this '
        'device: the fastest setting that loses no more than --max-drop, or the one that loses '
        'least of those that reach --min-speedup. The presets are tried first. The winner is '
        'checked on images that it was not searched on.',
        epilog='A search that was interrupted goes on with the same command; more --trials or '
        'another budget go on from what was found, too. Exit code: 0, a setting meets the budget; '
        '1, none does (the nearest is named); 2, the call is wrong; 130, interrupted.',
    )
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', help='weights; of any library that the package reads'
    )
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        '--max-drop', type=float, metavar='D',
        help='the most that may be lost: points of mIoU, or of PCK@0.05; without ground truth '
        'percent of the pixels whose label changes, or pixels by which keypoints move',
    )  # fmt: skip
    budget.add_argument(
        '--min-speedup', type=float, metavar='S', help='the least speed-up, such as 1.5'
    )
    parser.add_argument(
        '--by', metavar='MEASURE', choices=list(MEASURES),
        help=f'the measure that counts, of {", ".join(MEASURES)} (default: mIoU or PCK@0.05; '
        'changed or shift without ground truth). On few images, changed and shift vary less',
    )  # fmt: skip
    parser.add_argument(
        '--out', type=Path, metavar='DIR',
        help="gets front.json, front.png, a config and the search itself (default: 'tuning' in "
        "the config's work_dir)",
    )  # fmt: skip
    data = parser.add_argument_group('data')
    data.add_argument(
        '--images', type=parse_positive, metavar='N',
        help='to search on, drawn from the test set; as many others are for the check (default: '
        f'half of them, at most {MOST_IMAGES})',
    )  # fmt: skip
    data.add_argument(
        '--folder', type=Path, metavar='DIR',
        help="images without labels, in place of the config's test set",
    )  # fmt: skip
    search = parser.add_argument_group('search')
    search.add_argument(
        '--space', type=Path, metavar='FILE',
        help="config with space = [dict(type='MyStrategy', ratio=[0.5, 0.7], sides=['kv'], "
        'stages=[1, 2]), ...]; lists are choices (default: BipartiteSoftMatching2d, '
        'LocalWindowMerging and NeighborMerging2d)',
    )  # fmt: skip
    search.add_argument(
        '--trials', type=parse_positive, default=TRIALS, metavar='N',
        help='in all, those of earlier calls included (default: %(default)s)',
    )  # fmt: skip
    search.add_argument(
        '--timeout', type=float, metavar='MINUTES', help='begin no trial after so long'
    )
    search.add_argument(
        '--rounds', type=parse_positive, default=ROUNDS, metavar='N',
        help='in which a trial is timed, in turn with no merging; finalists get three times as '
        'many (default: %(default)s)',
    )  # fmt: skip
    search.add_argument('--seed', type=int, default=0, help='(default: %(default)s)')
    search.add_argument('--device', choices=['cpu', 'cuda'], help='(default: cuda if there is one)')
    search.add_argument('--fresh', action='store_true', help='forget the search in --out')
    add_config_arguments(parser)
    return parser


@main_guard
@interruptible()
def main(argv: Sequence[str], prog: str | None = None) -> int:
    """Runs the command and returns its exit code."""
    args = build_parser(prog).parse_args(argv)
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # init_weights lists parameters
    console = Console()
    try:
        result = _tune(args)
    except KeyboardInterrupt:
        console.print('interrupted; the same command goes on from here')
        return INTERRUPTED
    print_result(console, result, args)
    if result.interrupted:
        return INTERRUPTED
    return UNMET if result.winner is None else 0


def _tune(args: argparse.Namespace) -> TuneResult:
    return tune(
        args.config,
        args.checkpoint,
        max_drop=args.max_drop,
        min_speedup=args.min_speedup,
        out=args.out,
        images=args.images,
        folder=args.folder,
        by=args.by,
        trials=args.trials,
        timeout=args.timeout,
        rounds=args.rounds,
        seed=args.seed,
        device=args.device,
        cfg_options=args.cfg_options,
        fresh=args.fresh,
        progress=True,
        space=args.space,
    )


def print_result(console: Console, result: TuneResult, args: argparse.Namespace) -> None:
    """The front, the winner, and what to do next."""
    console.print(front_table(result))
    lines = [*_describe_failures(result), *_describe_outcome(result)]
    lines += [f'{name}: {path}' for name, path in result.files.items()]
    if 'config' in result.files:
        options = _spell(args.cfg_options)
        command = ['segformer-plusplus', 'test', str(result.files['config']), args.checkpoint]
        lines.append(f'try it: {shlex.join(command + options)}')
    if 'earlier config' in result.files:
        lines.append('the earlier config is of an earlier search; this one has found none')
    for line in lines:
        # a path that is broken into two cannot be copied
        whole = line.startswith(('front: ', 'plot: ', 'config: ', 'earlier config: ', 'try it: '))
        console.print(line, highlight=False, markup=False, soft_wrap=whole)


def front_table(result: TuneResult) -> Table:
    """The settings that no other one beats; fits into 80 columns."""
    measure = MEASURES[result.by]
    value = f'{result.baseline[result.by]:.{measure.digits}f} without merging'
    images = count_images(result, result.images)
    table = Table(
        title=f'{len(result.points)} settings measured on {images}; '
        + (f'{measure.label} {value}' if measure.higher_is_better else 'against no merging'),
        title_justify='left',
        caption='No setting that was measured loses less and is faster than one of these. '
        's: stride, r: ratio. *: the winner. All of each setting stands in front.json.',
        caption_justify='left',
    )
    table.add_column('')
    table.add_column('trial', justify='right')
    head = 'drop' if measure.higher_is_better else f'{measure.label} {measure.unit}'
    for name in (head, 'speed-up'):
        table.add_column(name, justify='right')
    table.add_column('setting')
    for point in result.front:
        mark = '*' if result.winner is not None and point.number == result.winner.number else ''
        setting = describe_setting(point)
        table.add_row(
            mark,
            str(point.number),
            f'{point.drop + 0.0:.{measure.digits}f}',
            f'{point.speed_up:.2f}',
            setting if len(setting) <= SETTING_WIDTH else f'{setting[: SETTING_WIDTH - 3]}...',
        )
    return table


def describe_setting(point: Point) -> str:
    """A preset's name, or 'kv BSM2d s2 r0.6 proportional | - | q NM2d s2 | -', a stage each."""
    if point.preset is not None:
        return point.preset
    stages: Any = point.token_merging
    return ' | '.join(_describe_stage(stage) for stage in stages)


def _describe_stage(stage: Mapping[str, Any]) -> str:
    sides = [f'{side} {_short(stage[side])}' for side in SIDES if side in stage]
    proportional = ' proportional' if stage.get('proportional_attention') else ''
    return ', '.join(sides) + proportional or '-'


def _short(strategy: Mapping[str, Any]) -> str:
    """BipartiteSoftMatching2d -> BSM2d, its settings by their first letter."""
    kept = [c for k, c in enumerate(strategy['type']) if c.isupper() or c.isdigit()]
    tail = 'd' if strategy['type'].endswith('d') and kept and kept[-1].isdigit() else ''
    settings = [f'{key[0]}{value}' for key, value in strategy.items() if key != 'type']
    return ' '.join([''.join(kept) + tail, *settings])


def _describe_failures(result: TuneResult) -> list[str]:
    if not result.failures:
        return []
    reasons = list(dict.fromkeys(failure.reason for failure in result.failures))
    more = f' (and {len(reasons) - 1} other reasons)' if len(reasons) > 1 else ''
    count = len(result.failures)
    return [f'{count} trial{"" if count == 1 else "s"} could not be measured: {reasons[0]}{more}']


def _describe_outcome(result: TuneResult) -> list[str]:
    lines = [_describe_rejection(result, each) for each in result.selection.rejected]
    if result.interrupted:
        return [*lines, 'interrupted; the same command goes on from here']
    if result.winner is not None:
        return [*lines, *describe_winner(result), *_describe_stages(result.winner)]
    nearest, untried = result.selection.nearest, result.selection.untried
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
    if point.preset is not None:
        return [f'  {point.preset}']
    stages = describe_setting(point).split(' | ')
    return [f'  stage {number}: {stage}' for number, stage in enumerate(stages, 1)]


def _spell(options: Mapping[str, Any] | None) -> list[str]:
    given = [f'{key}={value}' for key, value in (options or {}).items()]
    return ['--cfg-options', *given] if given else []
