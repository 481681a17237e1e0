"""Computes what the page shows of one image by two ways of predicting; knows no page."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import SegformerPlusPlusError, memory_errors
from ..evaluation.timing import Call, measure
from ..inference.drawing import draw_stage
from ..inference.merge_maps import (
    MergeMaps,
    merge_map,
    predict_labels,
    the_backbone,
    to_inputs,
    without_merging,
)
from ..inference.opening import device_of
from ..inference.predictor import Predictor
from ..patching import apply_token_merging
from ..token_merging import BASELINE
from ..token_merging.config import PURPOSES
from ..token_merging.words import in_words
from .photographs import Photograph, read_photograph
from .strategies import FIRST_PRESET, Ratios, make_strategy

MAX_PIXELS = 2048 * 1024
"""Of an image, unless another limit is given: Cityscapes' size."""

ROUNDS = 3, 15
"""Timed ones of each model, at least and at most, after one that is not."""

SECONDS = 2.0
"""For which both models are timed, as far as ``ROUNDS`` allow."""

WAITING = 8
"""Comparisons that wait for the one that is computed; one more is refused."""


class Entry(NamedTuple):
    """Holds a line of the legend: a class or a keypoint, its colour (RGB, 0..255), its value."""

    name: str
    colour: tuple[int, int, int]
    value: str


@dataclass(frozen=True)
class Outcome:
    """Holds what merging, or another file, changed in the prediction for one image.

    Attributes:
        unmerged: (H, W, 3) uint8 RGB, the prediction without merging (of the first file) on the
            image.
        merged: the same with merging (of the chosen file).
        changed: the same of where they differ.
        said: how much they differ, as the end of a sentence.
        legend: what the pictures show, the largest first.
    """

    unmerged: np.ndarray
    merged: np.ndarray
    changed: np.ndarray
    said: str
    legend: tuple[Entry, ...]


@dataclass(frozen=True)
class Result:
    """Holds what became of one image.

    Attributes:
        preset: the strategy, or the file, that was asked for.
        outcome: the predictions.
        stages: of the last block of each stage, what was merged by what is said of it.
        seconds: of what ``Comparer.timed`` names, the median.
        seconds_unmerged: the same without merging, or of the first file.
    """

    preset: str
    outcome: Outcome
    stages: tuple[dict[str, np.ndarray], ...]
    seconds: float
    seconds_unmerged: float

    @property
    def speed_up(self) -> float:
        """Returns how many times as fast it is."""
        return self.seconds_unmerged / self.seconds


class Comparer(ABC):
    """Compares what a visitor chooses with a reference on one image at a time, whoever asks.

    Args:
        predictor: reads the images.
        max_pixels: larger images are scaled down to so many.

    Attributes:
        timed: what the times are of.
        changes: what the second picture shows.
        shows: what the legend lists.
        kind: of what is chosen.
        presets: what can be chosen, with a few words on each.
        first: is chosen at first.
        baseline: is the reference itself, when it is chosen.
        reference: what the page calls it.
        sides: how the page tells the predictions of both apart.
        about: the comparison in a sentence.
        num_stages: of which there are merge maps.

    Raises:
        SegformerPlusPlusError: the limit is below 1.
    """

    timed: str
    changes: str
    shows: str
    kind: str
    presets: Mapping[str, str]
    first: str
    baseline: str
    reference: str
    sides: tuple[str, str]
    about: str
    num_stages = 0

    def __init__(self, predictor: Predictor[Any], max_pixels: int = MAX_PIXELS) -> None:
        if max_pixels < 1:
            raise SegformerPlusPlusError(f'max_pixels is {max_pixels}; give 1 or more')
        self.model = predictor.model
        self.max_pixels = max_pixels
        self.device: torch.device = device_of(self.model)
        self._reader = predictor.reader
        # a strategy is a state of the model, and another request would disturb the times
        self._one_at_a_time = Lock()
        self._places = BoundedSemaphore(WAITING + 1)

    def read(self, path: Path, name: str | None = None) -> Photograph:
        """Reads an image as the model's config says; errors call it by its name.

        Raises:
            SegformerPlusPlusError: see ``photographs.read_photograph``.
        """
        return read_photograph(self._reader, path, name or path.name, self.max_pixels)

    def __call__(self, image: np.ndarray, preset: str, ratios: Ratios | None = None) -> Result:
        """Predicts both ways, draws what was merged, and times both in turn.

        Args:
            image: (H, W, 3) uint8 RGB.
            preset: one of ``presets``.
            ratios: see ``strategies.make_strategy``.

        Raises:
            SegformerPlusPlusError: a choice that is refused, an image that the model would pad, too
                little memory, or too many who wait.
        """
        self.explain(preset, ratios)  # refuses what cannot be
        with self._turn(), memory_errors('the image', 'take a smaller one'):
            return self._compare(image, preset, ratios)

    @abstractmethod
    def explain(self, preset: str, ratios: Ratios | None = None) -> list[str]:
        """Says what a choice merges, a line per stage; of a file, its place in the list does.

        Raises:
            SegformerPlusPlusError: no such choice, or ratios that it refuses.
        """

    @abstractmethod
    def _compare(self, image: np.ndarray, preset: str, ratios: Ratios | None) -> Result:
        """Does what a call of this object does, when it is its turn."""

    def _time(self, plain: Call, merged: Call) -> tuple[float, float]:
        """Returns the medians of both calls in turn, in seconds."""
        with torch.inference_mode():
            # here, where running out of memory gets its advice, and not in measure
            start = time.perf_counter()
            plain()
            merged()
            rounds = int(SECONDS / (time.perf_counter() - start))
            rounds = min(max(rounds, ROUNDS[0]), ROUNDS[1])
            calls = {'plain': plain, 'merged': merged}
            times = measure(calls, rounds, warmup=0, device=self.device)
        return times['plain'].median, times['merged'].median

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Waits for the turn of a comparison, unless too many wait already."""
        if not self._places.acquire(blocking=False):
            raise SegformerPlusPlusError(
                f'{WAITING} comparisons of others wait already: press Compare again in a moment'
            )
        try:
            with self._one_at_a_time:
                yield
        finally:
            self._places.release()


class StrategyComparer(Comparer):
    """Compares a model under a strategy with itself without merging.

    Raises:
        SegformerPlusPlusError: the model has no SegFormer backbone; or see ``Comparer``.
    """

    kind = 'Strategy'
    presets = PURPOSES
    first = FIRST_PRESET
    baseline = BASELINE
    reference = 'without merging'
    sides = 'without merging', 'with merging'
    about = 'The same weights predict twice, without merging and with it.'

    def __init__(self, predictor: Predictor[Any], max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(predictor, max_pixels)
        self.num_stages = len(the_backbone(predictor.model).blocks)

    def explain(self, preset: str, ratios: Ratios | None = None) -> list[str]:
        return list(in_words(make_strategy(preset, ratios)))

    def _compare(self, image: np.ndarray, preset: str, ratios: Ratios | None) -> Result:
        model = self.model
        apply_token_merging(model, make_strategy(preset, ratios))
        pixels = self._seen(image)
        inputs = to_inputs(model, pixels)

        def merged() -> None:
            predict_labels(model, inputs)

        def plain() -> None:
            with without_merging(model):
                predict_labels(model, inputs)

        seconds_unmerged, seconds = self._time(plain, merged)
        maps = merge_map(model, pixels, inputs)
        stages = tuple(draw_stage(maps, stage) for stage in range(1, self.num_stages + 1))
        return Result(preset, self._outcome(image, maps), stages, seconds, seconds_unmerged)

    @abstractmethod
    def _seen(self, image: np.ndarray) -> np.ndarray:
        """Returns what of an image (H, W, 3) the network sees, (h, w, 3) uint8 RGB."""

    @abstractmethod
    def _outcome(self, image: np.ndarray, maps: MergeMaps) -> Outcome:
        """Shows the predictions for an image (H, W, 3) with and without merging."""
