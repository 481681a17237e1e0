"""What a setting costs and gains, measured: a trial, the finalists, the check."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...errors import SegformerPlusPlusError
from ...token_merging import BASELINE
from ..fidelity import MEASURES, Fidelity
from ..timing import Timing
from .points import Check, Failure, Point
from .space import Setting
from .study import Proposal

WARMUP = 2
PARTS = 4
"""Into which images are divided to see how much a drop varies between them."""


class Evaluator:
    """Measures settings on one set of images.

    Args:
        fidelity: the model on these images.
        by: the measure that counts, a key of ``fidelity.MEASURES``; None is its main one.
        rounds: in which a setting is timed.

    Attributes:
        baseline: all measures without merging.

    Raises:
        SegformerPlusPlusError: these images have no such measure, or cannot be predicted.
    """

    def __init__(self, fidelity: Fidelity[Any], by: str | None = None, rounds: int = 5) -> None:
        self.fidelity = fidelity
        self.by = by or fidelity.main_measure
        self.rounds = rounds
        self.baseline = fidelity.measure(BASELINE)
        if self.by not in self.baseline:
            raise SegformerPlusPlusError(
                f'--by {self.by}: these images are measured by {", ".join(self.baseline)}'
            )

    def drop(self, values: Mapping[str, float]) -> float:
        """How much worse than no merging, in the points of the measure that counts.

        Raises:
            SegformerPlusPlusError: the measure is undefined, as of classes that are nowhere.
        """
        value = values.get(self.by)
        if value is None:
            raise SegformerPlusPlusError(f'{self.by} is undefined on these images')
        if self.by == self.fidelity.main_measure:
            return self.fidelity.drop(values)
        return self.baseline[self.by] - value if MEASURES[self.by].higher_is_better else value

    def evaluate(self, proposal: Proposal) -> Point | Failure:
        """Run a trial; one that runs out of memory, or that fails in any way, is a failure."""
        try:
            return self._evaluate(proposal)
        except SegformerPlusPlusError as error:
            reason = str(error)
        except Exception as error:  # a strategy of one's own can fail in any way
            reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        failure = Failure(proposal.number, proposal.token_merging, reason)
        # outside of the handler, where the traceback holds the tensors no more
        release_memory()
        return failure

    def time_together(self, points: Sequence[Point], rounds: int) -> list[Point]:
        """The same points with speed-ups timed anew, all in turn.

        Args:
            points: the reference is not among them.
            rounds: of all.
        """
        named: dict[str, Setting] = {str(p.number): p.token_merging for p in points}
        timings = self.fidelity.time({BASELINE: BASELINE, **named}, rounds, WARMUP)
        found = {name: speed_up_of(timings[BASELINE], timings[name]) for name in named}
        return [
            replace(point, speed_up=ratio, noise=noise, rounds=rounds)
            for point in points
            for ratio, noise in [found[str(point.number)]]
        ]

    def check(self, token_merging: Setting) -> Check:
        """Measure a setting that was found on other images."""
        outcomes = list(self.fidelity.predict(token_merging))
        values = self.fidelity.compare(outcomes)
        ratio, noise = self._time(token_merging)
        return Check(
            images=self.fidelity.num_images,
            drop=self.drop(values),
            drop_noise=self._drop_noise(outcomes),
            speed_up=ratio,
            speed_up_noise=noise,
            values=values,
        )

    def _evaluate(self, proposal: Proposal) -> Point | Failure:
        token_merging = proposal.token_merging
        if token_merging == BASELINE:
            return Point(proposal.number, token_merging, 0.0, 1.0, values=self.baseline)
        ratio, noise = self._time(token_merging)
        values = self.fidelity.measure(token_merging)
        drop = self.drop(values)
        if not math.isfinite(drop):
            return Failure(proposal.number, token_merging, f'{self.by} is {values[self.by]}')
        return Point(proposal.number, token_merging, drop, ratio, noise, values, self.rounds)

    def _time(self, token_merging: Setting) -> tuple[float, float]:
        variants = {BASELINE: BASELINE, 'candidate': token_merging}
        timings = self.fidelity.time(variants, self.rounds, WARMUP)
        return speed_up_of(timings[BASELINE], timings['candidate'])

    def _drop_noise(self, outcomes: Sequence[Any]) -> float | None:
        """The standard error of the drop, from that of parts of the images; None if undefined.

        Args:
            outcomes: the predictions of all images.
        """
        parts = min(PARTS, self.fidelity.num_images)
        if parts < 2:
            return None
        indices = range(self.fidelity.num_images)
        drops = []
        try:
            for first in range(parts):
                part = Evaluator(self.fidelity.subset(list(indices[first::parts])), self.by)
                drops.append(part.drop(part.fidelity.compare(outcomes[first::parts])))
        except SegformerPlusPlusError:  # as of a part in which nothing is labelled
            return None
        return statistics.stdev(drops) / math.sqrt(parts)


def speed_up_of(reference: Timing, candidate: Timing) -> tuple[float, float]:
    """The ratio of the medians, and its standard error from the rounds' own ratios."""
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
