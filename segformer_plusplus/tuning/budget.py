"""What the user allows or asks for, and which points it likes best."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import SegformerPlusPlusError
from .points import Point

SLACK = 0.03
"""By which share a speed-up may miss the budget before it is timed anew: the noise of a trial."""

DROP_SLACK = 0.5
"""By which share of the budget the drop of a check may miss it, however much images vary."""


@dataclass(frozen=True)
class Budget:
    """Either the largest drop or the least speed-up.

    Attributes:
        max_drop: in the measure's points: the fastest setting within it is wanted.
        min_speedup: the setting with the least drop that reaches it is wanted.

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
