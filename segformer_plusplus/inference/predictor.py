"""Holds what predictors of labels and of keypoints share: pictures go through in batches."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from traceback import extract_tb
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from torch import nn
from tqdm import tqdm

from ..errors import SegformerPlusPlusError, describe_error
from ..loading.images import unreadable
from ..patching import apply_cuda_graphs
from .backends import Converter
from .opening import open_model
from .reader import Reader
from .sources import Picture, Source, count_pictures, find_pictures, is_one_image

Sample = TypeVar('Sample')


@dataclass(frozen=True)
class Prediction(Generic[Sample]):
    """Holds what became of one picture.

    Attributes:
        picture: where it is from.
        image: (H, W, 3) uint8 BGR; None if there is an error.
        sample: the toolbox's data sample; None if there is an error.
        error: names the picture and says why it could not be read or predicted.
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
        backend: 'torch'; or 'openvino' or 'onnxruntime', which compute the same on the CPU. For
            each size of images (up to ``backends.MOST_SIZES``) the model is converted once,
            which takes a while, and kept, see ``backends.cache_folder``.
        graphs: whether a SegFormer of a config is replayed on CUDA devices, see
            ``segformer_plusplus.patching.apply_cuda_graphs``; a model that is already built
            stays as it is.

    Attributes:
        model: in eval mode.
        reader: reads images as the test pipeline does.
        scope: its toolbox.
        any_size: whether to read images with more pixels than Pillow takes for an attack.

    Raises:
        SegformerPlusPlusError: see ``opening.open_model``; a batch size below 1.
        CheckpointError: the checkpoint does not fit.
    """

    scope: str
    any_size = False
    _grey_size = 256, 256

    def __init__(
        self,
        config_or_model: str | os.PathLike[str] | Config | nn.Module,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        token_merging: Any = None,
        device: str | torch.device | None = None,
        batch_size: int = 1,
        cfg_options: Mapping[str, Any] | None = None,
        backend: str = 'torch',
        graphs: bool = True,
    ) -> None:
        if not isinstance(batch_size, int) or not 1 <= batch_size <= sys.maxsize:
            raise SegformerPlusPlusError(
                f'batch_size is {batch_size!r}; give a whole number from 1 to {sys.maxsize}'
            )
        self.model = open_model(
            config_or_model,
            checkpoint,
            scope=self.scope,
            token_merging=token_merging,
            device='cpu' if device is None and backend != 'torch' else device,
            cfg_options=cfg_options,
        )
        self._convert = None if backend == 'torch' else Converter(self.model, backend)
        if graphs and not isinstance(config_or_model, nn.Module):
            with suppress(SegformerPlusPlusError):  # a model of another kind
                apply_cuda_graphs(self.model)
        init_default_scope(self.scope)
        self.reader = Reader(getattr(self.model, 'cfg', None))
        self.batch_size = batch_size
        self._progress = False
        self._proven = False  # whether the last picture was predicted

    def __call__(self, inputs: Source | Sequence[Source], progress: bool = False) -> Any:
        """Predicts one image, or several.

        Args:
            inputs: what ``sources.find_pictures`` takes.
            progress: show a bar.

        Returns:
            A data sample for one image; a list of them for a list, a folder or a video.

        Raises:
            SegformerPlusPlusError: an image cannot be read or predicted; ``stream`` goes on
                instead.
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
        """Yields predictions in order, also for images that cannot be read or predicted.

        Holds no more than one batch in memory. Where a batch fails, its images are predicted one by
        one; where one fails, a grey image shows whether that is due to the image.

        Args:
            inputs: what ``sources.find_pictures`` takes.
            progress: show a bar.

        Raises:
            SegformerPlusPlusError: no picture can be predicted, not even the grey one.
        """
        self._progress = progress
        pictures = find_pictures(inputs, self.any_size, self.reader)
        total = count_pictures(inputs) if progress else None
        with tqdm(total=total, unit='image', disable=not progress) as bar:
            while batch := list(itertools.islice(pictures, self.batch_size)):
                yield from self._predict(batch)
                bar.update(len(batch))

    def _test_step(self, data: Mapping[str, Sequence[Any]]) -> list[Sample]:
        """Predicts prepared images of one size."""
        model = self.model
        if self._convert is not None:
            model = self._convert(data['inputs'][0].shape[-2:])
        samples: list[Sample] = model.test_step(data)
        return samples

    def _predict(self, batch: Sequence[Picture]) -> list[Prediction[Sample]]:
        loaded = [_load(picture) for picture in batch]
        done = iter(self._attempt([each for each in loaded if each.error is None]))
        return [each if each.error else next(done) for each in loaded]

    def _attempt(self, loaded: Sequence[Prediction[Sample]]) -> list[Prediction[Sample]]:
        """Predicts images together, or one by one if that fails."""
        try:
            samples = self._samples([(each.picture, each.image) for each in loaded])
        except Exception as error:  # noqa: BLE001 - of anybody's pipeline and model
            if len(loaded) == 1:
                return [Prediction(loaded[0].picture, error=self._blame(loaded[0], error))]
            done = [self._attempt([each])[0] for each in loaded]
            if all(each.error is None for each in done):
                message = f'{_reason(error)}; the {len(done)} of a batch were predicted one by one'
                print_log(message, logger='current', level=logging.WARNING)
            return done
        self._proven = self._proven or bool(loaded)
        return [replace(each, sample=s) for each, s in zip(loaded, samples, strict=True)]

    def _blame(self, failed: Prediction[Sample], error: Exception) -> SegformerPlusPlusError:
        """Returns the error of one picture; raises one that every picture meets."""
        height, width = self._grey_size
        assert failed.image is not None
        if not self._proven:
            try:
                channels = failed.image.shape[2:]
                grey = np.full((height, width, *channels), 127, dtype=failed.image.dtype)
                self._samples([(Picture('grey', lambda: grey), grey)])
            except Exception:  # noqa: BLE001 - of the same pipeline and model
                raise SegformerPlusPlusError(
                    f'no picture can be predicted, not even a grey one of {height}x{width}: '
                    f'{_reason(error)}'
                ) from error
        self._proven = False
        size = 'x'.join(map(str, failed.image.shape[:2]))
        named = SegformerPlusPlusError(
            f'image {failed.picture.path or failed.picture.name} of {size} cannot be predicted: '
            f'{_reason(error)}'
        )
        named.__cause__ = error
        return named

    @abstractmethod
    def _samples(self, images: Sequence[tuple[Picture, Any]]) -> list[Sample]:
        """Predicts data samples of images (H, W, 3) uint8 BGR, and moves them to the CPU."""


def _load(picture: Picture) -> Prediction[Any]:
    try:
        return Prediction(picture, picture.load())
    except SegformerPlusPlusError as error:
        return Prediction(picture, error=error)
    except (MemoryError, OSError) as error:
        return Prediction(
            picture, error=unreadable('image', str(picture.path or picture.name), error)
        )


def _reason(error: Exception) -> str:
    """Returns what an error says, in the words of whoever wrote the step that failed."""
    said = next(iter(str(error).splitlines()), '')
    if isinstance(error, cv2.error) and 'resize' in said:
        return 'resizing leaves no pixel of its shorter side'
    if isinstance(error, cv2.error):
        return f'OpenCV: {error.err}'
    if not said:  # of an assertion, the line says more than nothing
        said = next((frame.line or '' for frame in extract_tb(error.__traceback__)[-1:]), '')
    return describe_error(error) or f'{type(error).__name__}: {said}'
