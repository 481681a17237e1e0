"""Which point wins: the best under the budget that also holds on other images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from .budget import Budget
from .evaluation import Evaluator
from .points import Check, Point

FINALISTS = 6
"""Points that are timed anew together."""

FINAL_ROUNDS = 3
"""Times the rounds of a trial, for finalists and for the check."""

MAX_CHECKS = 5
"""So many points may fail the check before the search is called off."""


@dataclass
class Selection:
    """What became of the points.

    Attributes:
        points: all; those that were timed anew with what was found then.
        winner: None where no point meets the budget.
        check: of the winner; None where there are no other images.
        rejected: what was better on the images that were searched on, but not on the others.
        nearest: without a winner, the point that misses the budget by least.
    """

    points: list[Point]
    winner: Point | None = None
    check: Check | None = None
    rejected: list[tuple[Point, Check]] = field(default_factory=list)
    nearest: Point | None = None


def select(
    selection: Selection, budget: Budget, evaluator: Evaluator, checker: Evaluator | None
) -> None:
    """Find the winner, or the nearest point.

    Args:
        selection: has the points of the search; gets all else, also when this is interrupted.
        budget: what is wanted.
        evaluator: on the images that were searched on.
        checker: on other images; None where there are none.
    """
    for point in _finalists(selection, budget, evaluator):
        check = None if checker is None else checker.check(point.token_merging)
        if check is None or holds(check, budget):
            selection.winner, selection.check = point, check
            return
        selection.rejected.append((point, check))
        if len(selection.rejected) == MAX_CHECKS:
            break
    selection.nearest = _nearest(selection, budget)


def holds(check: Check, budget: Budget) -> bool:
    """Whether the budget is met on other images, or missed by no more than the noise."""
    noise = check.drop_noise if budget.max_drop is not None else check.speed_up_noise
    return budget.excess(check.drop, check.speed_up) <= (noise or 0.0)


def _finalists(selection: Selection, budget: Budget, evaluator: Evaluator) -> Iterator[Point]:
    """The points that meet the budget by their new times, the best first."""
    for batch in _batches(budget.near(selection.points)):
        timed = evaluator.time_together(batch, FINAL_ROUNDS * evaluator.rounds)
        selection.points = _updated(selection.points, timed)
        yield from budget.ranked(timed)


def _batches(near: list[Point]) -> Iterator[list[Point]]:
    """The best first; all presets stand in the first batch, so that none is missed by noise."""
    first = [p for index, p in enumerate(near) if index < FINALISTS or p.preset is not None]
    rest = [point for point in near if point not in first]
    if first:
        yield first
    for start in range(0, len(rest), FINALISTS):
        yield rest[start : start + FINALISTS]


def _updated(points: Sequence[Point], changed: Sequence[Point]) -> list[Point]:
    new = {point.number: point for point in changed}
    return [new.get(point.number, point) for point in points]


def _nearest(selection: Selection, budget: Budget) -> Point | None:
    """Of those that failed the check by what was found there, else of all."""
    checked = [
        replace(point, drop=check.drop, speed_up=check.speed_up)
        for point, check in selection.rejected
    ]
    return budget.nearest(checked or selection.points)
