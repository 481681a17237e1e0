"""Measures one trained model on images under any number of presets: segmentation or pose."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from ...errors import SegformerPlusPlusError, memory_errors
from ...export.graph import as_raw, normalise
from ...inference.exported import ExportedFile, ExportedGraph
from ...inference.opening import device_of, in_parts_of_one_size, open_model
from ...patching import apply_token_merging, find_backbones
from ...token_merging import BASELINE, TokenMergingConfig, build_token_merging
from ..results import MEASURES, PRESENT
from ..timing import Timing, measure

ROUNDS = 10
WARMUP = 2
RADIUS = 10
"""Pixels from its border within which a fine class lies for the most part."""

_ADVICE = 'measure on smaller images, or on another device'

Variant = TokenMergingConfig | ExportedFile
"""What is compared: the model under a strategy, or exported to a file."""

Outcome = TypeVar('Outcome')
"""What is kept of the prediction of one image, or of one person."""


@dataclass(frozen=True)
class Source:
    """Holds prepared images, of which the first ``count`` are measured on.

    Each has 'inputs' and 'data_samples', as the test pipeline packs them; ``workers`` processes
    load them in batches.
    """

    data: Any
    count: int
    batch_size: int = 1
    workers: int = 0


class Fidelity(ABC, Generic[Outcome]):
    """Measures one trained model on one set of images under any number of presets.

    Presets are switched on the model; its weights stay. No merging ('none') is the reference: its
    predictions are made once, when they are first needed, and kept. An exported file can stand
    where a preset does; where the model itself is one, it is the reference as it is.

    Attributes:
        model: in eval mode.
        has_truth: whether there is ground truth.
        progress: whether bars are shown.
        unit: names what is counted, 'image' or 'person'.
        timed: says what ``time`` runs from and to.
        main_measure: the key of ``MEASURES`` by which strategies are ranked.
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
        self._files: dict[ExportedFile, Any] = {}
        self._active = model

    @property
    def num_images(self) -> int:
        """Returns the number of images (people, for pose) that are measured on."""
        return len(self._indices)

    @property
    def pictures(self) -> Sequence[Hashable]:
        """Returns the identity of each image; of people, that of the picture that shows them."""
        return self._indices

    @property
    def device(self) -> torch.device:
        """Returns the device of the model."""
        return device_of(self.model)

    @property
    def shape(self) -> tuple[int, int]:
        """Returns height and width of the image that ``time`` runs on."""
        height, width = self._prepared(self.model)['inputs'].shape[-2:]
        return height, width

    @property
    def baseline(self) -> dict[str, float]:
        """Returns the measures without merging."""
        return self.measure(BASELINE)

    def measure(self, variant: Variant) -> dict[str, float]:
        """Predicts every image under a preset, and compares with ground truth and no merging.

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
        return self.compare(self.predict(variant))

    def predict(self, variant: Variant) -> Iterator[Outcome]:
        """Returns the outcome of each image under a preset, one by one.

        Raises:
            SegformerPlusPlusError: as for ``measure``.
        """
        built = self._build(variant)
        kept = self._references()
        if variant is None or variant == BASELINE:
            return iter(kept)
        return self._predict_under(built, self._indices, _describe(variant))

    def compare(self, outcomes: Iterable[Outcome]) -> dict[str, float]:
        """Computes what ``measure`` returns from the outcomes of all images, in their order.

        Raises:
            SegformerPlusPlusError: a subset has none of the ground truth.
        """
        return self._summarise(zip(outcomes, self._references(), strict=True))

    def check(self, variant: Variant) -> None:
        """Predicts one image under a preset, to find out whether it can be measured.

        Raises:
            SegformerPlusPlusError: as for ``measure``.
        """
        self._switch(self._build(variant))
        with memory_errors(_describe(variant), _ADVICE):
            next(self._predict(self._indices[:1]))

    def drop(self, values: Mapping[str, float], by: str | None = None) -> float:
        """Returns how much worse than no merging the values are, in the points of a measure.

        Of mIoU, only the classes that the ground truth of these images has count: another one
        enters it, as 0, as soon as one pixel is taken for it.
        """
        by = by or self.main_measure
        key = by + PRESENT if by + PRESENT in values else by
        if MEASURES[by].higher_is_better:
            return self.baseline[key] - values[key]
        return values[key]

    def time(
        self,
        variants: Mapping[str, Variant],
        rounds: int = ROUNDS,
        warmup: int = WARMUP,
        taken: dict[str, list[float]] | None = None,
    ) -> dict[str, Timing]:
        """Times strategies and files by name, in turn, on one prepared image.

        Raises:
            SegformerPlusPlusError: as for ``measure``.
        """
        built = {name: self._build(each) for name, each in variants.items()}
        calls = {}
        for name, each in built.items():
            self._switch(each)
            calls[name] = self._timed_call(self._active)
        with torch.inference_mode():
            return measure(
                calls,
                rounds,
                warmup,
                self.device,
                taken=taken,
                before=lambda name: self._switch(built[name]),
                advice=_ADVICE,
            )

    def inputs(self) -> Iterator[Tensor]:
        """Yields the images (1, C, H, W) as the network gets them, each resized to the shape."""
        shape = self.shape
        for index in self._indices:
            yield normalise(self.model, as_raw(self._source.data[index]['inputs'], shape))

    def forget(self, file: ExportedFile) -> None:
        """Closes a file; it is opened anew when it is needed."""
        self._files.pop(file, None)
        self._active = self.model

    def subset(self, indices: Sequence[int]) -> Fidelity[Outcome]:
        """Returns the fidelity of the same model on some of the images.

        Predictions without merging are shared: none is made twice. Thin and small classes stay
        those of the whole set.

        Raises:
            SegformerPlusPlusError: there is no index, an index is out of range, or given twice.
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
        """Says in one line what is measured on, and what the measures mean."""

    @abstractmethod
    def _predict(self, indices: Sequence[int]) -> Iterator[Outcome]:
        """Yields the outcomes under the strategy that the model has now, in this order."""

    @abstractmethod
    def _summarise(self, pairs: Iterable[tuple[Outcome, Outcome]]) -> dict[str, float]:
        """Computes the measures from outcomes under a preset and without merging."""

    @abstractmethod
    def _timed_call(self, model: Any) -> Callable[[], Any]:
        """Returns a call that runs a model once on one prepared image."""

    def _samples(self, indices: Sequence[int]) -> Iterator[Any]:
        """Yields the toolbox's data samples, predicted as its own test does."""
        loader = DataLoader(
            Subset(self._source.data, indices),
            batch_size=self._source.batch_size,
            num_workers=self._source.workers,
            collate_fn=pseudo_collate,
        )
        for batch in loader:
            try:
                # not around the yield: it would hold for whoever iterates
                with torch.inference_mode():
                    samples = in_parts_of_one_size(self._active.test_step, batch)
            except SegformerPlusPlusError as error:
                names = ', '.join(str(each.img_path) for each in batch['data_samples'])
                raise SegformerPlusPlusError(
                    f'image {names} cannot be predicted: {error}'
                ) from error
            yield from samples

    def _prepared(self, model: Any) -> dict[str, Any]:
        """Returns the first image as a batch of one, as a model normalises it, on its device."""
        batch = pseudo_collate([self._source.data[self._indices[0]]])
        prepared: dict[str, Any] = model.data_preprocessor(batch, False)
        return prepared

    def _build(self, variant: Variant) -> Any:
        """Returns a strategy, a file that is opened, or None for the model as it is."""
        if isinstance(variant, ExportedFile):
            if variant not in self._files:
                config = getattr(self.model, 'cfg', None)
                self._files[variant] = open_model(config or variant.path, variant.path)
            return self._files[variant]
        if _is_exported(self.model):
            if variant not in (None, BASELINE):
                raise SegformerPlusPlusError(
                    f'token_merging={variant!r}: an exported file has its strategy in its graph; '
                    'name another file'
                )
            return None
        return build_token_merging(variant, len(find_backbones(self.model)[0].blocks))

    def _switch(self, built: Any) -> None:
        """Makes ``_samples`` predict by what ``_build`` returned."""
        self._active = built if isinstance(built, nn.Module) else self.model
        if built is not None and self._active is self.model:
            apply_token_merging(self.model, built)

    def _references(self) -> list[Outcome]:
        missing = [index for index in self._indices if index not in self._kept]
        if missing:
            outcomes = self._predict_under(self._build(BASELINE), missing, BASELINE)
            for index, outcome in zip(missing, outcomes, strict=True):
                self._kept[index] = outcome
        return [self._kept[index] for index in self._indices]

    def _predict_under(self, built: Any, indices: Sequence[int], name: str) -> Iterator[Outcome]:
        self._switch(built)
        with (
            memory_errors(name, _ADVICE),
            tqdm(total=len(indices), desc=name, unit=self.unit, disable=not self.progress) as bar,
        ):
            for outcome in self._predict(indices):
                yield outcome
                bar.update()


def _describe(variant: Variant) -> str:
    if isinstance(variant, ExportedFile):
        return Path(variant.path).name
    return variant if isinstance(variant, str) else 'strategy'


def _is_exported(model: Any) -> bool:
    return isinstance(getattr(model, 'backbone', None), ExportedGraph)
