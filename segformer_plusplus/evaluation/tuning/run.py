"""The whole of a tuning: split the images, search, select, check, write."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...errors import SegformerPlusPlusError
from ..fidelity import Fidelity
from ..timing import device_name
from .evaluation import Evaluator, release_memory
from .points import Budget, Check, Failure, Point, pareto_front
from .selection import FINAL_ROUNDS, Selection, select
from .space import Space
from .study import Study, open_study

MOST_IMAGES = 50
"""That are searched on, unless more are asked for."""

TRIALS = 60
ROUNDS = 5


@dataclass(frozen=True)
class Limits:
    """How long to search, and on what.

    Attributes:
        trials: in all, those of earlier calls included.
        timeout: begin no trial after so many minutes.
        images: to search on, drawn from the test set; as many others are for the check (default:
            half of them, at most 50).
        rounds: in which a trial is timed, in turn with no merging; finalists and the check get
            three times as many.
        seed: of the choice of images and of the proposals.
    """

    trials: int = TRIALS
    timeout: float | None = None
    images: int | None = None
    rounds: int = ROUNDS
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('trials', 'images', 'rounds'):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise SegformerPlusPlusError(f'{name} is {value!r}; give a whole number above 0')
        if self.timeout is not None and not self.timeout > 0:
            raise SegformerPlusPlusError(f'timeout is {self.timeout}; give minutes above 0')
        if not isinstance(self.seed, int) or self.seed < 0:
            raise SegformerPlusPlusError(f'seed is {self.seed!r}; give a whole number from 0')


@dataclass
class TuneResult:
    """What a tuning found.

    Attributes:
        budget: what was asked for.
        by: the measure of the drops, a key of ``fidelity.MEASURES``.
        baseline: all measures without merging on the images that were searched on.
        shape: height and width of what was timed.
        timed: from what to what.
        device: its name.
        images: how many were searched on.
        check_images: how many others there were.
        selection: all points, the winner and its check.
        failures: trials that could not be measured.
        interrupted: whether it is not done, as after Ctrl-C.
        files: what was written, by 'front', 'plot' and, with a winner, 'config'; without one,
            'earlier config' is that of an earlier call, which stays.
    """

    budget: Budget
    by: str
    baseline: Mapping[str, float]
    shape: tuple[int, int]
    timed: str
    device: str
    images: int
    check_images: int
    selection: Selection
    failures: list[Failure] = field(default_factory=list)
    interrupted: bool = False
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def points(self) -> list[Point]:
        """All settings that were measured."""
        return self.selection.points

    @property
    def front(self) -> list[Point]:
        """The points that no other one beats, the slowest first."""
        return pareto_front(self.points)

    @property
    def winner(self) -> Point | None:
        """The best point under the budget; None where none meets it."""
        return self.selection.winner

    @property
    def check(self) -> Check | None:
        """The winner on images that were not searched on; None where there are none."""
        return self.selection.check


def tune_fidelity(
    fidelity: Fidelity[Any],
    budget: Budget,
    out: str | os.PathLike[str],
    *,
    space: Space | None = None,
    limits: Limits | None = None,
    by: str | None = None,
    identity: Mapping[str, str] | None = None,
    fresh: bool = False,
    progress: bool = False,
    searched: Callable[[TuneResult], None] | None = None,
) -> TuneResult:
    """Search and select; of files, only the study in ``out`` is written.

    Args:
        fidelity: the model on all images.
        budget: what is wanted.
        out: folder of the study; with an unfinished one in it, the search goes on.
        space: what is searched.
        limits: how long, and on what.
        by: the measure that counts; None is the main one.
        identity: what else the numbers depend on, by a name that a message can say.
        fresh: start anew in ``out``.
        progress: show a bar.
        searched: is called with all trials before one of them is selected.

    Raises:
        SegformerPlusPlusError: see :func:`tune`.
    """
    limits = limits or Limits()
    space = space or Space()
    chosen, others = split_images(fidelity.pictures, limits.images, limits.seed)
    identity = {
        **(identity or {}),
        'measure': by or fidelity.main_measure,
        'choice of images': f'{len(chosen)} of {fidelity.num_images}, seed {limits.seed}',
        'space': repr(space.sites),
        'device': device_name(fidelity.device),
    }
    with open_study(Path(out), space, identity, limits.seed, fresh) as study:
        evaluator = Evaluator(fidelity.subset(chosen), by, limits.rounds)
        result = TuneResult(
            budget=budget,
            by=evaluator.by,
            baseline=evaluator.baseline,
            shape=evaluator.fidelity.shape,
            timed=fidelity.timed,
            device=device_name(fidelity.device),
            images=len(chosen),
            check_images=len(others),
            selection=Selection(study.points),
            interrupted=True,
        )
        try:
            try:
                _search(study, evaluator, budget, limits, progress)
            finally:
                result.selection.points, result.failures = study.points, study.failures
            if searched is not None:
                searched(result)
            checker = None
            if others and budget.near(study.points):
                checker = _open_checker(fidelity.subset(others), evaluator, result.selection)
            select(result.selection, budget, evaluator, checker)
            result.interrupted = False
        except KeyboardInterrupt:
            pass  # the result says so
    return result


def _open_checker(
    others: Fidelity[Any], evaluator: Evaluator, selection: Selection
) -> Evaluator | None:
    """For the images of the check; None, with the reason noted, where they cannot be measured."""
    try:
        return Evaluator(others, evaluator.by, FINAL_ROUNDS * evaluator.rounds)
    except SegformerPlusPlusError as error:
        selection.unchecked = str(error)
    release_memory()
    return None


def split_images(
    pictures: Sequence[Hashable], images: int | None, seed: int
) -> tuple[list[int], list[int]]:
    """Which images are searched on, and which the winner is checked on: drawn, never the same.

    Of people, those of one picture are never on both sides.

    Args:
        pictures: that each image, or person, is of.
        images: to search on (people, for pose), as in :class:`Limits`.
        seed: of the draw.

    Raises:
        SegformerPlusPlusError: there is no image, or fewer than are asked for.
    """
    count = len(pictures)
    if count < 1:
        raise SegformerPlusPlusError('there is no image to search on')
    if images is not None and images > count:
        raise SegformerPlusPlusError(
            f'images={images}: give a number from 1 to {count}, which there are; up to '
            f'{max(1, count // 2)} leave as many for the check'
        )
    members: dict[Hashable, list[int]] = {}
    for index, picture in enumerate(pictures):
        members.setdefault(picture, []).append(index)
    drawn = list(members.values())
    random.Random(seed).shuffle(drawn)
    order = [index for people in drawn for index in people]
    wanted = images or min(MOST_IMAGES, max(1, count // 2))
    searched = order[:wanted]
    seen = {pictures[index] for index in searched}
    others = [index for index in order[wanted:] if pictures[index] not in seen]
    return sorted(searched), sorted(others[:wanted])


def _search(
    study: Study, evaluator: Evaluator, budget: Budget, limits: Limits, progress: bool
) -> None:
    start = time.monotonic()
    with tqdm(
        total=limits.trials, initial=min(study.done, limits.trials), unit='trial',
        disable=not progress,
    ) as bar:  # fmt: skip
        bar.set_postfix_str(_describe_best(budget, study.points))
        while study.done < limits.trials:
            if limits.timeout is not None and time.monotonic() - start > 60 * limits.timeout:
                break
            proposal = study.propose()
            if proposal is None:
                break
            try:
                found = evaluator.evaluate(proposal)
            except KeyboardInterrupt:
                study.withdraw(proposal)
                raise
            study.tell(found)
            bar.set_postfix_str(_describe_best(budget, study.points), refresh=False)
            bar.update()


def _describe_best(budget: Budget, points: Sequence[Point]) -> str:
    ranked = budget.ranked(points)
    if not ranked:
        return 'none meets the budget yet'
    return f'best {ranked[0].speed_up:.2f}x, drop {ranked[0].drop:.2f}'
