"""What was measured of one setting, and whether it is within the budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...errors import SegformerPlusPlusError
from ...token_merging import BASELINE
from ..results import find_front
from .space import Setting

SLACK = 0.03
"""By which share a speed-up may miss the budget before it is timed anew: the noise of a trial."""

DROP_SLACK = 0.5
"""By which share of the budget the drop of a check may miss it, however much images vary."""


@dataclass(frozen=True)
class Point:
    """A setting that was measured.

    Attributes:
        number: of its trial.
        token_merging: as a config takes it; a preset by its name.
        drop: how much worse than no merging, in the points of the measure that is tuned by.
        speed_up: median time without merging over that with it.
        noise: standard error of the speed-up.
        values: all measures by name.
        rounds: in which it was timed.
    """

    number: int
    token_merging: Setting
    drop: float
    speed_up: float
    noise: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)
    rounds: int = 0

    @property
    def preset(self) -> str | None:
        """Its name, if it is one."""
        return self.token_merging if isinstance(self.token_merging, str) else None

    @property
    def is_reference(self) -> bool:
        """Whether nothing is merged."""
        return self.token_merging == BASELINE


@dataclass(frozen=True)
class Failure:
    """A setting that could not be measured.

    Attributes:
        number: of its trial.
        token_merging: as a config takes it.
        reason: why.
    """

    number: int
    token_merging: Setting
    reason: str


@dataclass(frozen=True)
class Check:
    """A setting on images that were not searched on.

    Attributes:
        images: how many.
        drop: see :class:`Point`.
        drop_noise: its standard error, from parts of the images; None for a single image.
        speed_up: see :class:`Point`.
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
    """A setting that was better where it was searched on, but does not win.

    Attributes:
        point: where it was searched on.
        check: on other images; None where it could not be measured.
        reason: why.
    """

    point: Point
    check: Check | None
    reason: str


def pareto_front(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats, the slowest first; of equal ones the first."""
    by_number = {str(point.number): point for point in sorted(points, key=lambda p: p.number)}
    pairs = {name: (point.speed_up, point.drop) for name, point in by_number.items()}
    return [by_number[name] for name in find_front(pairs, higher_is_better=False)]


@dataclass(frozen=True)
class Budget:
    """What is wanted: either the fastest setting within a drop, or the best one at a speed-up.

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
        if (self.max_drop is None) == (self.min_speedup is None):
            raise SegformerPlusPlusError('give either --max-drop or --min-speedup')
        if self.max_drop is not None and not math.isfinite(self.max_drop):
            raise SegformerPlusPlusError(f'--max-drop is {self.max_drop}; give a finite number')
        speed_up = self.min_speedup
        if speed_up is not None and not (math.isfinite(speed_up) and speed_up > 1):
            raise SegformerPlusPlusError(
                f'--min-speedup is {speed_up}; give a number above 1, the speed-up of no merging'
            )

    def excess(self, drop: float, speed_up: float) -> float:
        """By how much this misses the budget, in the unit of the budget; 0 or less is within."""
        if self.max_drop is not None:
            return drop - self.max_drop
        assert self.min_speedup is not None
        return self.min_speedup - speed_up

    @property
    def tolerance(self) -> float:
        """By how much a check may miss the budget at most, in the unit of the budget."""
        if self.max_drop is not None:
            return DROP_SLACK * abs(self.max_drop)
        assert self.min_speedup is not None
        return SLACK * self.min_speedup

    def meets(self, point: Point) -> bool:
        """Whether it is within, and faster than no merging."""
        return self.excess(point.drop, point.speed_up) <= 0 and point.speed_up > 1

    def ranked(self, points: Iterable[Point]) -> list[Point]:
        """Those within the budget, the best first."""
        return self._sorted(point for point in points if self.meets(point))

    def near(self, points: Iterable[Point]) -> list[Point]:
        """Those that may be within it once their time is known better, the best first."""
        generous = 1 + SLACK
        return self._sorted(
            point
            for point in points
            if self.excess(point.drop, point.speed_up * generous) <= 0
            and point.speed_up * generous > 1
            and not point.is_reference
        )

    def safest(self, points: Iterable[Point]) -> list[Point]:
        """Those that may be within it, the ones with most to spare first."""
        return sorted(self.near(points), key=lambda p: self.excess(p.drop, p.speed_up))

    def nearest(self, points: Iterable[Point]) -> Point | None:
        """The one that misses the budget by least, of those that are faster than no merging."""
        return min(
            (point for point in points if point.speed_up > 1 and not point.is_reference),
            key=lambda point: (
                self.excess(point.drop, point.speed_up),
                point.drop,
                -point.speed_up,
            ),
            default=None,
        )

    def _sorted(self, points: Iterable[Point]) -> list[Point]:
        by_speed = self.max_drop is not None
        return sorted(
            points,
            key=lambda p: (-p.speed_up, p.drop) if by_speed else (p.drop, -p.speed_up),
        )
