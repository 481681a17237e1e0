"""What one trial found, and which trials no other one beats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..fidelity.plot import find_front
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
