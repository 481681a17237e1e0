"""Measures settings under a budget and selects the best one that also holds on other images."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ...errors import SegformerPlusPlusError
from ...inference.exported import ExportedFile
from ...token_merging import BASELINE
from ..fidelity import MEASURES, Fidelity
from ..fidelity.base import Variant
from ..results import find_front
from ..timing import Timing
from .space import Setting
from .study import Failure, Point

WARMUP = 2

PARTS = 4
"""The images are divided into so many parts to see how much a drop varies between them."""

SLACK = 0.03
"""By this share a speed-up may miss the budget before it is timed anew: the noise of a trial."""

DROP_SLACK = 0.5
"""By this share of the budget the drop of a check may miss it, however much images vary."""

FINALISTS = 6
"""So many points are timed anew together."""

FINAL_ROUNDS = 3
"""Finalists and the check are timed in so many times the rounds of a trial."""

MAX_CHECKS = 5
"""So many of the best points may fail the check; then as many of the safest are tried."""

UNDECIDED = 'undecided: too few images, which vary by more than it misses the budget'


@dataclass(frozen=True)
class Budget:
    """Says what is wanted: the fastest setting within a drop, or the best one at a speed-up.

    Attributes:
        max_drop: the most that may be lost: points of mIoU, or of PCK@0.05; without ground truth
            percent of the pixels whose label changes, or pixels by which keypoints move.
        min_speedup: the least speed-up, such as 1.5.

    Raises:
        SegformerPlusPlusError: both or none is given, or the number makes no sense.
    """

    max_drop: float | None = None
    min_speedup: float | None = None

    def __post_init__(self) -> None:
        drop, speed_up = self.max_drop, self.min_speedup
        if (drop is None) == (speed_up is None):
            raise SegformerPlusPlusError('give either --max-drop or --min-speedup')
        if drop is not None and not math.isfinite(drop):
            raise SegformerPlusPlusError(f'--max-drop is {drop}; give a finite number')
        if speed_up is not None and not (math.isfinite(speed_up) and speed_up > 1):
            raise SegformerPlusPlusError(
                f'--min-speedup is {speed_up}; give a number above 1, the speed-up of no merging'
            )

    def excess(self, drop: float, speed_up: float) -> float:
        """Returns by how much this misses the budget, in its unit; 0 or less is within."""
        if self.max_drop is not None:
            return drop - self.max_drop
        assert self.min_speedup is not None
        return self.min_speedup - speed_up

    def meets(self, point: Point) -> bool:
        """Returns whether a point is within the budget, and faster than no merging."""
        return self.excess(point.drop, point.speed_up) <= 0 and point.speed_up > 1

    def ranked(self, points: Iterable[Point]) -> list[Point]:
        """Returns the points within the budget, the best first."""
        return self._sorted(filter(self.meets, points))

    def near(self, points: Iterable[Point]) -> list[Point]:
        """Returns the points that may meet the budget once they are timed anew, the best first."""
        return self._sorted(
            point
            for point in points
            if self.meets(replace(point, speed_up=point.speed_up * (1 + SLACK)))
            and not point.is_reference
        )

    def nearest(self, points: Iterable[Point]) -> Point | None:
        """Returns the point that misses the budget by least, if one is faster than no merging."""
        faster = (p for p in points if p.speed_up > 1 and not p.is_reference)
        return min(
            faster,
            key=lambda p: (self.excess(p.drop, p.speed_up), p.drop, -p.speed_up),
            default=None,
        )

    def judge(self, check: Check) -> str | None:
        """Returns why a setting fails on other images; None where it holds there.

        A miss within the noise is forgiven, but not a large one: few images vary so much that
        anything would pass.
        """
        if check.speed_up <= 1:
            return 'it is not faster than no merging'
        if self.max_drop is not None:
            noise, tolerance = check.drop_noise, DROP_SLACK * abs(self.max_drop)
        else:
            assert self.min_speedup is not None
            noise, tolerance = check.speed_up_noise, SLACK * self.min_speedup
        excess = self.excess(check.drop, check.speed_up)
        if excess <= min(noise or 0.0, tolerance):
            return None
        return UNDECIDED if excess <= (noise or 0.0) else 'it misses the budget'

    def _sorted(self, points: Iterable[Point]) -> list[Point]:
        by_speed = self.max_drop is not None
        return sorted(
            points,
            key=lambda p: (-p.speed_up, p.drop) if by_speed else (p.drop, -p.speed_up),
        )


@dataclass(frozen=True)
class Check:
    """Holds what was measured of a setting on images that were not searched on.

    Attributes:
        images: how many.
        drop: see ``Point``.
        drop_noise: its standard error, from parts of the images; None for a single image.
        speed_up: see ``Point``.
        speed_up_noise: its standard error.
        values: all measures by name.
    """

    images: int
    drop: float
    drop_noise: float | None
    speed_up: float
    speed_up_noise: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Rejection:
    """Says why a setting that was better where it was searched on does not win.

    Attributes:
        point: where it was searched on.
        check: on other images; None where it could not be measured.
        reason: why.
    """

    point: Point
    check: Check | None
    reason: str


@dataclass
class TuneResult:
    """Holds what a tuning found.

    Attributes:
        budget: what was asked for.
        by: the measure of the drops, a key of ``fidelity.MEASURES``.
        baseline: all measures without merging on the images that were searched on.
        shape: height and width of what was timed.
        timed: from what to what.
        device: its name.
        images: how many were searched on.
        check_images: how many others there were.
        points: all settings that were measured; finalists with their new times.
        failures: trials that could not be measured.
        winner: the best point under the budget; None where none meets it.
        check: the winner on images that were not searched on; None where there are none.
        unchecked: why there is no check, if there are other images.
        rejected: what was better on the images that were searched on, but not on the others.
        untried: without a winner, how many points within the budget were not checked.
        nearest: without a winner, the point that misses the budget by least.
        settled: numbers of the points that were timed anew.
        interrupted: whether it is not done, as after Ctrl-C.
        files: what was written, by 'front', 'plot' and, with a winner, 'config'; without one,
            'earlier config' is that of an earlier call, which stays; 'model' is an exported file
            that won.
        left_out: formats and precisions that were not tried, and why.
    """

    budget: Budget
    by: str
    baseline: Mapping[str, float]
    shape: tuple[int, int]
    timed: str
    device: str
    images: int
    check_images: int
    points: list[Point]
    failures: list[Failure] = field(default_factory=list)
    winner: Point | None = None
    check: Check | None = None
    unchecked: str | None = None
    rejected: list[Rejection] = field(default_factory=list)
    untried: int = 0
    nearest: Point | None = None
    settled: set[int] = field(default_factory=set)
    interrupted: bool = False
    files: dict[str, Path] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def front(self) -> list[Point]:
        """The points that no other one beats, the slowest first; of equal ones the first."""
        numbered = {str(p.number): p for p in sorted(self.points, key=lambda p: p.number)}
        pairs = {name: (point.speed_up, point.drop) for name, point in numbered.items()}
        return [numbered[name] for name in find_front(pairs, higher_is_better=False)]


class Evaluator:
    """Measures settings on one set of images.

    Args:
        fidelity: the model on these images.
        by: the measure that counts, a key of ``fidelity.MEASURES``; None is its main one.
        rounds: in which a setting is timed.
        realise: turns a setting into what the fidelity measures; None takes it as it is.

    Attributes:
        baseline: all measures without merging.

    Raises:
        SegformerPlusPlusError: these images have no such measure, or cannot be predicted.
    """

    def __init__(
        self,
        fidelity: Fidelity[Any],
        by: str | None = None,
        rounds: int = 5,
        realise: Callable[[Setting], Variant] | None = None,
    ) -> None:
        self.fidelity = fidelity
        self.realise = realise or (lambda setting: setting)
        self.by = by or fidelity.main_measure
        self.rounds = rounds
        self.baseline = fidelity.measure(BASELINE)
        if self.by not in self.baseline:
            raise SegformerPlusPlusError(
                f'--by {self.by}: these images are measured by {", ".join(self.baseline)}'
            )

    def evaluate(self, number: int, setting: Setting) -> Point | Failure:
        """Runs a trial; one that runs out of memory, or fails in any way, is a failure."""
        if setting == BASELINE:
            return Point(number, setting, 0.0, 1.0, values=self.baseline)
        try:
            variant = self.realise(setting)
            speed_up, noise = self._time({'candidate': variant}, self.rounds)['candidate']
            values = self.fidelity.measure(variant)
            if isinstance(variant, ExportedFile):  # many that are open fill the memory
                self.fidelity.forget(variant)
            drop = self._drop(values)
            if math.isfinite(drop):
                return Point(number, setting, drop, speed_up, noise, values, self.rounds)
            reason = f'{self.by} is {values[self.by]}'
        except SegformerPlusPlusError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - a strategy of one's own can fail in any way
            reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        # outside of the handler, where the traceback holds the tensors no more
        release_memory()
        return Failure(number, setting, reason)

    def time_together(self, points: Sequence[Point], rounds: int) -> list[Point]:
        """Returns the points with speed-ups timed anew, all in turn with no merging."""
        variants = {str(p.number): self.realise(p.token_merging) for p in points}
        found = self._time(variants, rounds)
        return [
            replace(point, speed_up=speed_up, noise=noise, rounds=rounds)
            for point, (speed_up, noise) in zip(points, found.values(), strict=True)
        ]

    def check(self, setting: Setting) -> Check:
        """Measures a setting that was found on other images."""
        variant = self.realise(setting)
        outcomes = list(self.fidelity.predict(variant))
        values = self.fidelity.compare(outcomes)
        speed_up, noise = self._time({'candidate': variant}, self.rounds)['candidate']
        return Check(
            images=self.fidelity.num_images,
            drop=self._drop(values),
            drop_noise=self._drop_noise(outcomes),
            speed_up=speed_up,
            speed_up_noise=noise,
            values=values,
        )

    def _drop(self, values: Mapping[str, float]) -> float:
        """Returns how much worse than no merging this is, in points of the measure that counts."""
        value = values.get(self.by)
        if value is None:  # as of classes that are nowhere
            raise SegformerPlusPlusError(f'{self.by} is undefined on these images')
        if self.by == self.fidelity.main_measure:
            return self.fidelity.drop(values)
        return self.baseline[self.by] - value if MEASURES[self.by].higher_is_better else value

    def _time(self, variants: Mapping[str, Variant], rounds: int) -> dict[str, tuple[float, float]]:
        timings = self.fidelity.time({BASELINE: BASELINE, **variants}, rounds, WARMUP)
        return {name: speed_up_of(timings[BASELINE], timings[name]) for name in variants}

    def _drop_noise(self, outcomes: Sequence[Any]) -> float | None:
        """Returns the standard error of the drop, from parts of the images; None if undefined."""
        parts = min(PARTS, self.fidelity.num_images)
        if parts < 2:
            return None
        indices = range(self.fidelity.num_images)
        drops = []
        try:
            for first in range(parts):
                part = Evaluator(self.fidelity.subset(list(indices[first::parts])), self.by)
                drops.append(part._drop(part.fidelity.compare(outcomes[first::parts])))
        except SegformerPlusPlusError:  # as of a part in which nothing is labelled
            return None
        return statistics.stdev(drops) / math.sqrt(parts)


def speed_up_of(reference: Timing, candidate: Timing) -> tuple[float, float]:
    """Returns the ratio of the medians, and its standard error from the rounds' own ratios."""
    ratio = reference.median / candidate.median
    ratios = [a / b for a, b in zip(reference.seconds, candidate.seconds, strict=True)]
    if len(ratios) < 2:
        return ratio, 0.0
    # a median varies by the square root of pi / 2 more than a mean
    return ratio, math.sqrt(math.pi / 2) * statistics.stdev(ratios) / math.sqrt(len(ratios))


def release_memory() -> None:
    """Gives the device back what a failed trial had taken."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def select(result: TuneResult, evaluator: Evaluator, checker: Evaluator | None) -> None:
    """Finds the winner, or the nearest point.

    Args:
        result: has the points of the search; gets what is found, also when this is interrupted.
        evaluator: measures on the images that were searched on.
        checker: measures on other images; None where there are none.
    """
    budget = result.budget
    for batch in _batches(budget.near(result.points)):
        room = MAX_CHECKS - len(result.rejected)
        if room < 1:
            break
        if _try(result, _time_anew(result, batch, evaluator)[:room], checker):
            return
    # fast ones fail where images vary: those with most to spare may hold nevertheless
    if _try(result, _safest(result, evaluator), checker):
        return
    result.untried = len(_left(result))
    checked = [
        replace(each.point, drop=each.check.drop, speed_up=each.check.speed_up)
        for each in result.rejected
        if each.check is not None
    ]
    result.nearest = budget.nearest(checked) or budget.nearest(result.points)


def _batches(near: list[Point]) -> Iterator[list[Point]]:
    """Yields the best first, and with them all presets, so that noise hides none of these."""
    first = [p for index, p in enumerate(near) if index < FINALISTS or p.preset is not None]
    rest = [point for point in near if point not in first]
    if first:
        yield first
    for start in range(0, len(rest), FINALISTS):
        yield rest[start : start + FINALISTS]


def _time_anew(result: TuneResult, batch: Sequence[Point], evaluator: Evaluator) -> list[Point]:
    """Returns the points that meet the budget by their new times, the best first."""
    rounds = FINAL_ROUNDS * evaluator.rounds
    timed: list[Point] = []
    with contextlib.suppress(SegformerPlusPlusError):  # one does not fit: each by itself, see below
        timed = evaluator.time_together(batch, rounds)
    if not timed:
        release_memory()
        for point in batch:
            try:
                timed += evaluator.time_together([point], rounds)
            except SegformerPlusPlusError as error:
                reason = f'it could not be timed anew: {error}'
                result.rejected.append(Rejection(point, None, reason))
    new = {point.number: point for point in timed}
    result.points = [new.get(point.number, point) for point in result.points]
    result.settled |= set(new)
    return result.budget.ranked(timed)


def _try(result: TuneResult, points: Sequence[Point], checker: Evaluator | None) -> bool:
    """Returns whether a point holds on the other images; the first that does is the winner."""
    for point in points:
        check, reason = None, None
        if checker is not None:
            try:
                check = checker.check(point.token_merging)
                reason = result.budget.judge(check)
            except SegformerPlusPlusError as error:
                reason = f'it could not be checked: {error}'
        if reason is None:
            result.winner, result.check = point, check
            return True
        result.rejected.append(Rejection(point, check, reason))
        if check is None:
            release_memory()
    return False


def _safest(result: TuneResult, evaluator: Evaluator) -> list[Point]:
    """Returns those left with most to spare and the presets that meet the budget, best first."""
    left = sorted(_left(result), key=lambda p: result.budget.excess(p.drop, p.speed_up))
    chosen = [p for index, p in enumerate(left) if index < MAX_CHECKS or p.preset is not None]
    known = [point for point in chosen if point.number in result.settled]
    new = [point for point in chosen if point.number not in result.settled]
    timed = _time_anew(result, new, evaluator) if new else []
    return result.budget.ranked([*known, *timed])


def _left(result: TuneResult) -> list[Point]:
    """Returns the points that may be within the budget and were not rejected, the best first."""
    rejected = {each.point.number for each in result.rejected}
    return [
        point
        for point in result.budget.near(result.points)
        # one that was timed anew has to meet the budget as it is
        if point.number not in rejected
        and (point.number not in result.settled or result.budget.meets(point))
    ]
