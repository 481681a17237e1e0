"""Computes what the page shows of one image under a strategy; knows nothing of the page."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import SegformerPlusPlusError, memory_errors
from ..evaluation.timing import measure
from ..inference.drawing import draw_stage
from ..inference.merge_maps import (
    MergeMaps,
    merge_map,
    predict_labels,
    the_backbone,
    to_inputs,
    without_merging,
)
from ..inference.predictor import Predictor
from ..patching import apply_token_merging
from ..token_merging import PRESETS
from .photographs import Photograph, read_photograph
from .strategies import Ratios, make_strategy

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
    """Holds what merging changed in the prediction for one image.

    Attributes:
        unmerged: (H, W, 3) uint8 RGB, the prediction without merging on the image.
        merged: the same with merging.
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
        preset: the strategy that was asked for.
        outcome: the predictions.
        stages: of the last block of each stage, what was merged by what is said of it.
        seconds: of what :attr:`Comparer.timed` names, the median.
        seconds_unmerged: the same without merging.
    """

    preset: str
    outcome: Outcome
    stages: tuple[dict[str, np.ndarray], ...]
    seconds: float
    seconds_unmerged: float

    @property
    def speed_up(self) -> float:
        """Returns how many times as fast merging makes the model."""
        return self.seconds_unmerged / self.seconds


class Comparer(ABC):
    """Compares a strategy with no merging on one image at a time, whoever asks.

    Args:
        predictor: its weights are used under every strategy.
        max_pixels: larger images are scaled down to so many.

    Attributes:
        timed: what the times are of.
        changes: what the second picture shows.
        shows: what the legend lists.
        presets: those that the model can take.

    Raises:
        SegformerPlusPlusError: the model has no SegFormer backbone, or the limit is below 1.
    """

    timed: str
    changes: str
    shows: str
    presets = tuple(PRESETS)

    def __init__(self, predictor: Predictor[Any], max_pixels: int = MAX_PIXELS) -> None:
        if max_pixels < 1:
            raise SegformerPlusPlusError(f'max_pixels is {max_pixels}; give 1 or more')
        self.num_stages = len(the_backbone(predictor.model).blocks)
        self.model = predictor.model
        self.max_pixels = max_pixels
        self.device: torch.device = next(self.model.parameters()).device
        self._reader = predictor.reader
        # a strategy is a state of the model, and another request would disturb the times
        self._one_at_a_time = Lock()
        self._places = BoundedSemaphore(WAITING + 1)

    def read(self, path: Path, name: str | None = None) -> Photograph:
        """Reads an image as the model's config says; errors call it by its name.

        Raises:
            SegformerPlusPlusError: see :func:`~.photographs.read_photograph`.
        """
        return read_photograph(self._reader, path, name or path.name, self.max_pixels)

    def __call__(self, image: np.ndarray, preset: str, ratios: Ratios | None = None) -> Result:
        """Predicts with and without merging, draws what was merged, and times both in turn.

        Args:
            image: (H, W, 3) uint8 RGB.
            preset: see :func:`~.strategies.make_strategy`, as for the ratios.

        Raises:
            SegformerPlusPlusError: a strategy that is refused, an image that the model would pad,
                too little memory, or too many who wait.
        """
        strategy, model = make_strategy(preset, ratios), self.model
        with self._turn(), memory_errors('the image', 'take a smaller one'):
            apply_token_merging(model, strategy)
            pixels = self._seen(image)
            inputs = to_inputs(model, pixels)

            def merged() -> None:
                predict_labels(model, inputs)

            def plain() -> None:
                with without_merging(model):
                    predict_labels(model, inputs)

            with torch.inference_mode():
                # here, where running out of memory gets its advice, and not in measure
                start = time.perf_counter()
                plain()
                merged()
                rounds = int(SECONDS / (time.perf_counter() - start))
                calls = {'plain': plain, 'merged': merged}
                rounds = min(max(rounds, ROUNDS[0]), ROUNDS[1])
                times = measure(calls, rounds, warmup=0, device=self.device)
            maps = merge_map(model, pixels, inputs)
            outcome = self._outcome(image, maps)
        return Result(
            preset=preset,
            outcome=outcome,
            stages=tuple(draw_stage(maps, stage) for stage in range(1, self.num_stages + 1)),
            seconds=times['merged'].median,
            seconds_unmerged=times['plain'].median,
        )

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

    @abstractmethod
    def _seen(self, image: np.ndarray) -> np.ndarray:
        """Returns what of an image (H, W, 3) the network sees, (h, w, 3) uint8 RGB."""

    @abstractmethod
    def _outcome(self, image: np.ndarray, maps: MergeMaps) -> Outcome:
        """Shows the predictions for an image (H, W, 3) with and without merging."""
