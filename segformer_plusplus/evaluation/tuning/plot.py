"""A picture of a tuning: every trial, the front, the budget and the winner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...files import written_beside
from ..fidelity import MEASURES
from ..plots import LabelledPoint, label_points
from .points import Point
from .run import TuneResult
from .writing import count_images

PLOT = 'front.png'

_SETTING, _FRONT, _BUDGET, _WINNER = '0.6', 'tab:blue', 'tab:green', 'tab:red'


def draw_front(path: Path, result: TuneResult, title: str = '') -> None:
    """Draw drop over speed-up as a PNG; the best is at the top right.

    Args:
        path: of the picture.
        result: what was found; without a point nothing is drawn but the budget.
        title: above it.
    """
    figure = Figure(figsize=(8, 5), layout='constrained')
    axis = figure.subplots()
    hidden = _limit_drops(axis, result)
    _draw_points(axis, result)
    _draw_budget(axis, result)
    _draw_winner(axis, result)
    measure = MEASURES[result.by]
    what = (
        f'drop of {measure.label} in points'
        if measure.higher_is_better
        else (f'{measure.label} in {measure.unit}')
    )
    axis.set_xlabel('speed-up')
    axis.set_ylabel(f'{what} (less is better)')
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc='upper left', bbox_to_anchor=(1, 1), frameon=False)
    _name_presets(axis, result)
    note = f'\n{hidden} trials that lose more lie below' if hidden else ''
    figure.suptitle(title + note, fontsize=11)
    with written_beside(path) as place:
        figure.savefig(place, format='png', dpi=120)


def _limit_drops(axis: Axes, result: TuneResult) -> int:
    """Show what is near the budget; returns how many points are beyond."""
    drops = [point.drop for point in result.points]
    if not drops:
        return 0
    marks = [0.0]
    if result.budget.max_drop is not None:
        marks.append(result.budget.max_drop)
    best = result.winner or result.selection.nearest
    if best is not None:
        marks.append(best.drop)
    if result.check is not None:
        marks.append(result.check.drop + (result.check.drop_noise or 0.0))
    middle = float(np.median([point.drop for point in result.front]))
    lowest = min(0.0, *drops)
    highest = min(max(3 * max(marks), middle), max(drops + marks))
    edge = 0.06 * (highest - lowest or 1.0)
    axis.set_ylim(highest + edge, lowest - edge)  # less is up
    shown = [point.speed_up for point in result.points if point.drop <= highest + edge]
    shown.append(result.budget.min_speedup or 1.0)
    side = 0.06 * (max(shown) - min(shown) or 1.0)
    axis.set_xlim(min(shown) - side, max(shown) + side)
    return sum(drop > highest + edge for drop in drops)


def _draw_points(axis: Axes, result: TuneResult) -> None:
    front = result.front
    rest = [point for point in result.points if point not in front]
    axis.scatter(*_xy(rest), s=18, color=_SETTING, label='trial', zorder=2)
    axis.plot(*_xy(front), '-', color=_FRONT, alpha=0.5, drawstyle='steps-pre', zorder=1)
    axis.scatter(*_xy(front), s=32, color=_FRONT, label='front', zorder=3)


def _name_presets(axis: Axes, result: TuneResult) -> None:
    lowest, highest = sorted(axis.get_ylim())
    label_points(
        axis,
        [
            LabelledPoint(point.speed_up, point.drop, point.preset)
            for point in result.points
            if point.preset is not None and lowest <= point.drop <= highest
        ],
    )


def _draw_budget(axis: Axes, result: TuneResult) -> None:
    budget = result.budget
    if budget.max_drop is not None:
        axis.axhline(budget.max_drop, color=_BUDGET, linestyle='--', label='budget', zorder=1)
    elif budget.min_speedup is not None:
        axis.axvline(budget.min_speedup, color=_BUDGET, linestyle='--', label='budget', zorder=1)


def _draw_winner(axis: Axes, result: TuneResult) -> None:
    winner, check = result.winner, result.check
    rejected = [each.point for each in result.selection.rejected]
    if rejected:
        axis.scatter(*_xy(rejected), marker='x', s=70, color=_WINNER, zorder=4,
                     label='failed the check')  # fmt: skip
    if winner is not None:
        axis.scatter([winner.speed_up], [winner.drop], marker='*', s=190, color=_WINNER,
                     zorder=5, label=f'winner, {count_images(result, result.images)}')  # fmt: skip
    if winner is not None and check is not None:
        axis.errorbar(
            [check.speed_up],
            [check.drop],
            xerr=[check.speed_up_noise],
            yerr=[check.drop_noise or 0.0],
            fmt='o',
            color=_WINNER,
            markerfacecolor='white',
            capsize=3,
            zorder=5,
            label=f'winner, {count_images(result, check.images)} not searched on',
        )


def _xy(points: list[Point]) -> tuple[list[float], list[float]]:
    return [point.speed_up for point in points], [point.drop for point in points]
