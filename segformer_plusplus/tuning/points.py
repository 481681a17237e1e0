"""What one trial found, and which trials no other one beats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .space import Setting

REFERENCE = 'none'


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
        return self.token_merging == REFERENCE

    def beats(self, other: Point) -> bool:
        """Whether it is as good in both respects and better in one."""
        as_good = self.drop <= other.drop and self.speed_up >= other.speed_up
        return as_good and (self.drop, self.speed_up) != (other.drop, other.speed_up)


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


def pareto_front(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats, the slowest first; of equal ones the first."""
    best: list[Point] = []
    ordered = sorted(points, key=lambda p: (-p.speed_up, p.drop, p.number))
    for point in ordered:
        if not best or point.drop < best[-1].drop:
            best.append(point)
    return best[::-1]
