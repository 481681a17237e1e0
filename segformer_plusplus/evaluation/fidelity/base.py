"""What is common to segmentation and pose: a model on images, under any number of presets."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from ...errors import SegformerPlusPlusError, memory_errors
from ...patching import apply_token_merging, find_backbones
from ...token_merging import BASELINE, TokenMergingConfig, build_token_merging
from ..results import MEASURES, PRESENT
from ..timing import Timing, measure
from .data import Source

ROUNDS = 10
WARMUP = 2
RADIUS = 10
"""Pixels from its border within which a fine class lies for the most part."""

_ADVICE = 'measure on smaller images, or on another device'

Outcome = TypeVar('Outcome')
"""What is kept of the prediction of one image, or of one person."""


class Fidelity(ABC, Generic[Outcome]):
    """One trained model on one set of images, measured under any number of presets.

    Presets are switched on the model that is there; its weights stay. No merging ('none') is
    the reference: its predictions are made once, when they are first needed, and kept.

    Args:
        model: in eval mode.
        source: of the images.
        has_truth: whether there is ground truth.
        progress: show bars.

    Attributes:
        has_truth: whether there is ground truth.
        unit: of what is counted, 'image' or 'person'.
        timed: what :meth:`time` runs from and to, in words.
        main_measure: by which strategies are ranked, a key of ``MEASURES``.
    """

    main_measure: str
    unit = 'image'
    timed = 'image to label map'

    def __init__(self, model: Any, source: Source, has_truth: bool, progress: bool) -> None:
        self.model = model
        self.has_truth = has_truth
        self.progress = progress
        self._source = source
        self._indices: tuple[int, ...] = tuple(range(source.count))
        self._kept: dict[int, Outcome] = {}  # shared with subsets

    @property
    def num_images(self) -> int:
        """Images (people, for pose) that are measured on."""
        return len(self._indices)

    @property
    def pictures(self) -> Sequence[Hashable]:
        """What each image is; of people, the picture that shows them."""
        return self._indices

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what :meth:`time` runs on."""
        height, width = self._prepared()['inputs'].shape[-2:]
        return height, width

    @property
    def baseline(self) -> dict[str, float]:
        """:meth:`measure` of no merging."""
        return self.measure(BASELINE)

    def measure(self, token_merging: TokenMergingConfig) -> dict[str, float]:
        """Predict every image under a preset, and compare with ground truth and no merging.

        Args:
            token_merging: whatever the backbone's ``token_merging`` takes.

        Returns:
            Segmentation, in percent: 'mIoU' and 'mIoU_fine' (with ground truth; the latter where
            the data set has thin or small classes; both again with '_present', over the classes
            that the ground truth has, if that is not all of them), 'changed' (pixels of all images
            whose label is another one than without merging).
            Pose: 'PCK@0.1' and 'PCK@0.05' in percent (with ground truth), 'shift' (mean distance of
            a keypoint to that without merging, in pixels of the image; of annotated keypoints where
            there is ground truth).

        Raises:
            SegformerPlusPlusError: the strategy does not fit the model, an image cannot be read,
                a subset has none of the ground truth, or the memory does not suffice (then
                ``__cause__`` is PyTorch's error).
        """
        return self.compare(self.predict(token_merging))

    def predict(self, token_merging: TokenMergingConfig) -> Iterator[Outcome]:
        """What is kept of the prediction of each image under a preset, one by one.

        Args:
            token_merging: as for :meth:`measure`.

        Raises:
            SegformerPlusPlusError: as for :meth:`measure`.
        """
        merging = self._build(token_merging)
        kept = self._references()
        if token_merging is None or token_merging == BASELINE:
            return iter(kept)
        return self._predict_under(merging, self._indices, _describe(token_merging))

    def compare(self, outcomes: Iterable[Outcome]) -> dict[str, float]:
        """:meth:`measure`, of what :meth:`predict` gave.

        Args:
            outcomes: of all images, in their order.

        Raises:
            SegformerPlusPlusError: a subset has none of the ground truth.
        """
        return self._summarise(zip(outcomes, self._references(), strict=True))

    def check(self, token_merging: TokenMergingConfig) -> None:
        """Predict one image under a preset, to find out whether it can be measured.

        Raises:
            SegformerPlusPlusError: as for :meth:`measure`.
        """
        merging = self._build(token_merging)
        apply_token_merging(self.model, merging)
        with memory_errors(_describe(token_merging), _ADVICE):
            for _ in self._predict(self._indices[:1]):
                pass

    def drop(self, values: Mapping[str, float], by: str | None = None) -> float:
        """How much worse than no merging, in the points of a measure.

        Of mIoU only the classes that the ground truth of these images has: another one enters it,
        as 0, as soon as one pixel is taken for it.

        Args:
            values: of :meth:`measure`.
            by: a key of ``MEASURES``; None is the main one.
        """
        by = by or self.main_measure
        key = by + PRESENT if by + PRESENT in values else by
        if MEASURES[by].higher_is_better:
            return self.baseline[key] - values[key]
        return values[key]

    def time(
        self,
        variants: Mapping[str, TokenMergingConfig],
        rounds: int = ROUNDS,
        warmup: int = WARMUP,
        taken: dict[str, list[float]] | None = None,
    ) -> dict[str, Timing]:
        """Time strategies in turn, on one prepared image: to the label map, or to heatmaps.

        Args:
            variants: strategies by name.
            rounds: timed rounds.
            warmup: rounds before those.
            taken: filled with the seconds as they come.

        Raises:
            SegformerPlusPlusError: as for :meth:`measure`.
        """
        merging = {name: self._build(each) for name, each in variants.items()}
        run = self._timed_call()

        def switch(name: str) -> None:
            apply_token_merging(self.model, merging[name])

        calls = dict.fromkeys(merging, run)
        with torch.inference_mode():
            return measure(
                calls, rounds, warmup, self.device, taken=taken, before=switch, advice=_ADVICE
            )

    def subset(self, indices: Sequence[int]) -> Fidelity[Outcome]:
        """The same model on some of the images.

        Predictions without merging are shared: none is made twice. Thin and small classes stay
        those of the whole set.

        Args:
            indices: from 0 to ``num_images - 1``, each once.

        Raises:
            SegformerPlusPlusError: none, one that is not there, or one given twice.
        """
        if not indices or len(set(indices)) < len(indices):
            raise SegformerPlusPlusError('a subset takes one or more different indices')
        for index in indices:
            if not 0 <= index < self.num_images:
                raise SegformerPlusPlusError(
                    f'there is no image {index}: the set has {self.num_images}, counted from 0'
                )
        part = copy.copy(self)
        part._indices = tuple(self._indices[index] for index in indices)
        return part

    @abstractmethod
    def describe(self) -> str:
        """What is measured on, and what the measures mean, in one line."""

    @abstractmethod
    def _predict(self, indices: Sequence[int]) -> Iterator[Outcome]:
        """Outcomes under the strategy that the model has now, in this order."""

    @abstractmethod
    def _summarise(self, pairs: Iterable[tuple[Outcome, Outcome]]) -> dict[str, float]:
        """The measures, from outcomes under a preset and without merging."""

    @abstractmethod
    def _timed_call(self) -> Callable[[], Any]:
        """Runs the model once on one prepared image."""

    def _samples(self, indices: Sequence[int]) -> Iterator[Any]:
        """The toolbox's data samples, predicted as its own test does, where the model is."""
        loader = DataLoader(
            Subset(self._source.data, indices),
            batch_size=self._source.batch_size,
            num_workers=self._source.workers,
            collate_fn=pseudo_collate,
        )
        for batch in loader:
            # not around the yield: it would hold for whoever iterates
            with torch.inference_mode():
                samples = self.model.test_step(batch)
            yield from samples

    def _prepared(self) -> dict[str, Any]:
        """The first image as a batch of one, normalised and on the device."""
        batch = pseudo_collate([self._source.data[self._indices[0]]])
        prepared: dict[str, Any] = self.model.data_preprocessor(batch, False)
        return prepared

    def _build(self, token_merging: TokenMergingConfig) -> Any:
        stages = len(find_backbones(self.model)[0].blocks)
        return build_token_merging(token_merging, stages)

    def _references(self) -> list[Outcome]:
        missing = [index for index in self._indices if index not in self._kept]
        if missing:
            outcomes = self._predict_under(self._build(BASELINE), missing, BASELINE)
            for index, outcome in zip(missing, outcomes, strict=True):
                self._kept[index] = outcome
        return [self._kept[index] for index in self._indices]

    def _predict_under(self, merging: Any, indices: Sequence[int], name: str) -> Iterator[Outcome]:
        apply_token_merging(self.model, merging)
        with (
            memory_errors(name, _ADVICE),
            tqdm(total=len(indices), desc=name, unit=self.unit, disable=not self.progress) as bar,
        ):
            for outcome in self._predict(indices):
                yield outcome
                bar.update()


def _describe(token_merging: TokenMergingConfig) -> str:
    return token_merging if isinstance(token_merging, str) else 'strategy'
