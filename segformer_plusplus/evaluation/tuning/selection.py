"""Which point wins: the best under the budget that also holds on other images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ...errors import SegformerPlusPlusError
from .evaluation import Evaluator, release_memory
from .points import Budget, Check, Point, Rejection

FINALISTS = 6
"""Points that are timed anew together."""

FINAL_ROUNDS = 3
"""Times the rounds of a trial, for finalists and for the check."""

MAX_CHECKS = 5
"""So many of the best points may fail the check; then as many of the safest are tried."""

UNDECIDED = 'undecided: too few images, which vary by more than it misses the budget'


@dataclass
class Selection:
    """What became of the points.

    Attributes:
        points: all; those that were timed anew with what was found then.
        winner: None where no point meets the budget.
        check: of the winner; None where there are no other images.
        unchecked: why there is no check, if there are other images.
        rejected: what was better on the images that were searched on, but not on the others.
        untried: without a winner, how many points within the budget were not checked.
        nearest: without a winner, the point that misses the budget by least.
        settled: numbers of the points that were timed anew.
    """

    points: list[Point]
    winner: Point | None = None
    check: Check | None = None
    unchecked: str | None = None
    rejected: list[Rejection] = field(default_factory=list)
    untried: int = 0
    nearest: Point | None = None
    settled: set[int] = field(default_factory=set)


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
    for batch in _batches(budget.near(selection.points)):
        room = MAX_CHECKS - len(selection.rejected)
        if room < 1:
            break
        finalists = _time(selection, batch, budget, evaluator)
        if _try(selection, finalists[:room], budget, checker):
            return
    # fast ones fail where images vary: those with most to spare may hold nevertheless
    if _try(selection, _safest(selection, budget, evaluator), budget, checker):
        return
    selection.untried = len(_left(selection, budget))
    selection.nearest = _nearest(selection, budget)


def judge(check: Check, budget: Budget) -> str | None:
    """Why a setting fails on other images; None where it holds there.

    A miss within the noise is forgiven, but not beyond ``budget.tolerance``: few images vary so
    much that anything would pass.
    """
    if check.speed_up <= 1:
        return 'it is not faster than no merging'
    noise = check.drop_noise if budget.max_drop is not None else check.speed_up_noise
    excess = budget.excess(check.drop, check.speed_up)
    if excess <= min(noise or 0.0, budget.tolerance):
        return None
    return UNDECIDED if excess <= (noise or 0.0) else 'it misses the budget'


def _try(
    selection: Selection, points: Sequence[Point], budget: Budget, checker: Evaluator | None
) -> bool:
    """Whether one of them holds on the other images; the first is the winner."""
    for point in points:
        check, reason = None, None
        if checker is not None:
            try:
                check = checker.check(point.token_merging)
                reason = judge(check, budget)
            except SegformerPlusPlusError as error:
                reason = f'it could not be checked: {error}'
        if reason is None:
            selection.winner, selection.check = point, check
            return True
        selection.rejected.append(Rejection(point, check, reason))
        release_memory()
    return False


def _time(
    selection: Selection, batch: Sequence[Point], budget: Budget, evaluator: Evaluator
) -> list[Point]:
    """Those that meet the budget by their new times, the best first."""
    rounds = FINAL_ROUNDS * evaluator.rounds
    try:
        timed = evaluator.time_together(batch, rounds)
    except SegformerPlusPlusError:
        timed = None
    if timed is None:
        release_memory()
        timed = []
        for point in batch:
            try:
                timed += evaluator.time_together([point], rounds)
            except SegformerPlusPlusError as error:
                reason = f'it could not be timed anew: {error}'
                selection.rejected.append(Rejection(point, None, reason))
    new = {point.number: point for point in timed}
    selection.points = [new.get(point.number, point) for point in selection.points]
    selection.settled |= set(new)
    return budget.ranked(timed)


def _batches(near: list[Point]) -> Iterator[list[Point]]:
    """The best first; all presets stand in the first batch, so that none is missed by noise."""
    first = [p for index, p in enumerate(near) if index < FINALISTS or p.preset is not None]
    rest = [point for point in near if point not in first]
    if first:
        yield first
    for start in range(0, len(rest), FINALISTS):
        yield rest[start : start + FINALISTS]


def _safest(selection: Selection, budget: Budget, evaluator: Evaluator) -> list[Point]:
    """Of those that are left the ones with most to spare and all presets, the best first."""
    left = budget.safest(_left(selection, budget))
    chosen = [p for index, p in enumerate(left) if index < MAX_CHECKS or p.preset is not None]
    known = [point for point in chosen if point.number in selection.settled]
    new = [point for point in chosen if point.number not in selection.settled]
    timed = _time(selection, new, budget, evaluator) if new else []
    return budget.ranked([*known, *timed])


def _left(selection: Selection, budget: Budget) -> list[Point]:
    """Points that may be within the budget and were not rejected."""
    rejected = {each.point.number for each in selection.rejected}
    return [
        point
        for point in budget.near(selection.points)
        # one that was timed anew has to meet the budget as it is
        if point.number not in rejected
        and (point.number not in selection.settled or budget.meets(point))
    ]


def _nearest(selection: Selection, budget: Budget) -> Point | None:
    """Of those that failed the check by what was found there, else of all."""
    checked = [
        replace(each.point, drop=each.check.drop, speed_up=each.check.speed_up)
        for each in selection.rejected
        if each.check is not None
    ]
    return budget.nearest(checked) or budget.nearest(selection.points)
