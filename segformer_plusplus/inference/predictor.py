"""Holds what predictors of labels and of keypoints share: pictures go through in batches."""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn
from tqdm import tqdm

from ..errors import SegformerPlusPlusError
from .opening import open_model
from .reader import Reader
from .sources import Picture, Source, count_pictures, find_pictures, is_one_image

Sample = TypeVar('Sample')


@dataclass(frozen=True)
class Prediction(Generic[Sample]):
    """Holds what became of one picture.

    Attributes:
        picture: where it is from.
        image: (H, W, 3) uint8 BGR; None if it could not be read.
        sample: the toolbox's data sample; None if the image could not be read.
        error: says why the image could not be read.
    """

    picture: Picture
    image: np.ndarray | None = None
    sample: Sample | None = None
    error: SegformerPlusPlusError | None = None


class Predictor(ABC, Generic[Sample]):
    """Opens a model and runs it on pictures; subclasses turn images into data samples.

    Args:
        config_or_model: config file, config, or a model of the toolbox that is already built.
        checkpoint: weights from any library that the package reads; loaded strictly.
        token_merging: a preset or strategy that replaces the config's.
        device: None takes CUDA if there is one.
        batch_size: images, tiles or people in one forward pass.
        cfg_options: dotted keys of the config and their new values.

    Attributes:
        model: in eval mode.
        reader: reads images as the test pipeline does.
        scope: its toolbox.
        any_size: whether to read images with more pixels than Pillow takes for an attack.

    Raises:
        SegformerPlusPlusError: see :func:`~.opening.open_model`; a batch size below 1.
        CheckpointError: the checkpoint does not fit.
    """

    scope: str
    any_size = False

    def __init__(
        self,
        config_or_model: str | os.PathLike[str] | Config | nn.Module,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        token_merging: Any = None,
        device: str | torch.device | None = None,
        batch_size: int = 1,
        cfg_options: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise SegformerPlusPlusError(f'batch_size is {batch_size!r}; give 1 or more')
        self.model = open_model(
            config_or_model,
            checkpoint,
            scope=self.scope,
            token_merging=token_merging,
            device=device,
            cfg_options=cfg_options,
        )
        init_default_scope(self.scope)
        self.reader = Reader(getattr(self.model, 'cfg', None))
        self.batch_size = batch_size
        self._progress = False

    def __call__(self, inputs: Source | Sequence[Source], progress: bool = False) -> Any:
        """Predicts one image, or several.

        Args:
            inputs: what :func:`~.sources.find_pictures` takes.
            progress: show a bar.

        Returns:
            A data sample for one image; a list of them for a list, a folder or a video.

        Raises:
            SegformerPlusPlusError: an image cannot be read; :meth:`stream` goes on instead.
        """
        samples = []
        for prediction in self.stream(inputs, progress):
            if prediction.error is not None:
                raise prediction.error
            samples.append(prediction.sample)
        return samples[0] if is_one_image(inputs) else samples

    def stream(
        self, inputs: Source | Sequence[Source], progress: bool = False
    ) -> Iterator[Prediction[Sample]]:
        """Yields predictions in order, also for images that cannot be read.

        Holds no more than one batch in memory.

        Args:
            inputs: what :func:`~.sources.find_pictures` takes.
            progress: show a bar.
        """
        self._progress = progress
        pictures = find_pictures(inputs, self.any_size, self.reader)
        total = count_pictures(inputs) if progress else None
        with tqdm(total=total, unit='image', disable=not progress) as bar:
            while batch := list(itertools.islice(pictures, self.batch_size)):
                yield from self._predict(batch)
                bar.update(len(batch))

    def _predict(self, batch: Sequence[Picture]) -> list[Prediction[Sample]]:
        loaded = [_load(picture) for picture in batch]
        images = [(each.picture, each.image) for each in loaded if each.error is None]
        samples = iter(self._samples(images))
        return [each if each.error else replace(each, sample=next(samples)) for each in loaded]

    @abstractmethod
    def _samples(self, images: Sequence[tuple[Picture, Any]]) -> list[Sample]:
        """Predicts data samples of images (H, W, 3) uint8 BGR, and moves them to the CPU."""


def _load(picture: Picture) -> Prediction[Any]:
    try:
        return Prediction(picture, picture.load())
    except SegformerPlusPlusError as error:
        return Prediction(picture, error=error)
