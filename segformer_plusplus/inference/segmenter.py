"""Segments images, folders and videos with a model of mmseg."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmengine.structures import PixelData
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from torch import nn

from ..errors import SegformerPlusPlusError, memory_errors
from ..loading.datasets import test_dataset
from ..registration import component_name
from ..segmentation.labels import class_counts
from .configs import is_loader, named_config
from .labels import distinct_colours, label_dtype
from .predictor import Predictor
from .pretrained import describe_pretrained
from .sources import Picture
from .tiling import Tiles, predict_tiles

_RESIZES = 'Resize', 'RandomResize', 'ResizeShortestEdge', 'ResizeToMultiple'
_ADVICE = 'try a smaller batch_size (--batch-size), or tiles (tile, --tile)'


class Segmenter(Predictor[SegDataSample]):
    """Runs a segmentor with the test pipeline of its config.

        segmenter = Segmenter('configs/...py', 'weights.pth', token_merging='hq')
        sample = segmenter('street.png')  # sample.pred_sem_seg.data: (1, H, W) labels

    Args:
        config_or_model: config file or config of mmseg, or a model of mmseg that is already built;
            without a ``cfg`` it takes images as they are.
        checkpoint: its weights.
        tile: height and width, or one number for both: cut larger images into tiles of this size,
            without the pipeline's resizing. Memory then depends on the tile, except for the image
            and its labels, one byte per pixel.
        overlap: overlap of tiles in pixels (128, or a quarter of a smaller tile); the seam runs
            through its middle.
        keep_logits: keep ``seg_logits`` in the samples, if the model computes them.
        options: see ``predictor.Predictor``.

    Attributes:
        classes: their names. A class that is alone has label 1, and 0 is the rest.
        palette: (K, 3) uint8, their RGB colours.
        reduces_zero_label: whether the numbers in the data set's own label maps, and in those that
            mmseg writes, are one higher than labels.

    Raises:
        SegformerPlusPlusError: see ``predictor.Predictor``; impossible tiles.
        CheckpointError: the checkpoint does not fit.
    """

    scope = 'mmseg'

    def __init__(
        self,
        config_or_model: str | os.PathLike[str] | Config | nn.Module,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        tile: int | tuple[int, int] | None = None,
        overlap: int | None = None,
        keep_logits: bool = False,
        **options: Any,
    ) -> None:
        self.tiles = None if tile is None else Tiles.of(tile, overlap)
        if self.tiles and keep_logits:
            raise SegformerPlusPlusError('tiles keep no logits: leave out tile or keep_logits')
        super().__init__(config_or_model, checkpoint, **options)
        model = self.model
        if not hasattr(model, 'decode_head'):
            raise SegformerPlusPlusError(
                f'a {type(model).__name__} is no segmentor of mmseg: it has no decode_head'
            )
        self.keep_logits = keep_logits
        self.any_size = self.tiles is not None
        if self.tiles is not None:
            self._grey_size = min(256, self.tiles.height), min(256, self.tiles.width)
        self.classes, self.palette = _names(model.dataset_meta, model.decode_head)
        config = getattr(model, 'cfg', None)
        self.reduces_zero_label = _reduces_zero_label(model.dataset_meta, test_dataset(config))
        self._pipeline = Compose(_pipeline(config, resize=self.tiles is None))

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        **options: Any,
    ) -> Segmenter:
        """Opens a model that brings its weights, such as one of the Hugging Face Hub.

            segmenter = Segmenter.from_pretrained('nvidia/segformer-b0-finetuned-ade-512-512')

        Args:
            name: see ``configs.named_config``, as for the revision and the token.
            revision: branch, tag or commit.
            token: of somebody who may read it.
            options: of the class. Without ``token_merging`` the model merges as was saved with it,
                else by the preset ``pretrained.DEFAULT_MERGING``.

        Raises:
            SegformerPlusPlusError: see ``configs.named_config``.
            CheckpointError: the weights do not fit the model's own settings.
        """
        config = named_config(os.fspath(name), revision, token)
        if config is None:
            raise SegformerPlusPlusError(
                f"{name} is no folder, no OWNER/NAME of the Hub and no SegFormer of mmseg's own; "
                'segformer-plusplus models lists names'
            )
        print_log(describe_pretrained(config, options.get('token_merging')), logger='current')
        return cls(config, **options)

    def labels(self, image: np.ndarray) -> np.ndarray:
        """Predicts the labels (H, W) of an image (H, W, 3) uint8 BGR, without tiles."""
        return _labels_of(self._run([('array', image)])[0])

    def prepare(self, name: str, image: np.ndarray) -> dict[str, Any]:
        """Returns 'inputs' and 'data_samples' of an image (H, W, 3) uint8 BGR, by the pipeline."""
        size = image.shape[:2]
        prepared: dict[str, Any] = self._pipeline(
            dict(img=np.ascontiguousarray(image), img_path=name, img_shape=size, ori_shape=size)
        )
        return prepared

    def _samples(self, images: Sequence[tuple[Picture, Any]]) -> list[SegDataSample]:
        if self.tiles is None:
            return self._run([(picture.name, image) for picture, image in images])
        return [self._in_tiles(picture, image, self.tiles) for picture, image in images]

    def _in_tiles(self, picture: Picture, image: np.ndarray, tiles: Tiles) -> SegDataSample:
        def predict(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [_labels_of(sample) for sample in self._run([('tile', part) for part in parts])]

        dtype = label_dtype(len(self.classes))
        labels = predict_tiles(image, tiles, predict, self.batch_size, dtype, self._progress)
        shapes = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), image.shape[:2])
        sample = SegDataSample(metainfo=dict(img_path=picture.name, **shapes))
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(labels)[None])
        return sample

    def _run(self, images: Sequence[tuple[str, np.ndarray]]) -> list[SegDataSample]:
        """Predicts in batches of successive images that have one size."""

        def sizes(prepared: Mapping[str, Any]) -> tuple[Any, ...]:
            # the size in the network, and the size to resize the logits to
            return prepared['inputs'].shape, prepared['data_samples'].ori_shape

        samples: list[SegDataSample] = []
        every = (self.prepare(name, image) for name, image in images)
        for _, same in groupby(every, key=sizes):
            batch = list(same)
            data = {key: [each[key] for each in batch] for key in ('inputs', 'data_samples')}
            with torch.inference_mode(), memory_errors('the model', _ADVICE):
                results = self._test_step(data)
            for sample in results:
                # mmseg's own are floats of one logit
                sample.pred_sem_seg.data = sample.pred_sem_seg.data.long()
                if not self.keep_logits and 'seg_logits' in sample:
                    del sample.seg_logits
                samples.append(sample.to('cpu'))
        return samples


def _labels_of(sample: SegDataSample) -> np.ndarray:
    labels: np.ndarray = sample.pred_sem_seg.data[0].numpy()
    return labels


def _pipeline(config: Config | None, resize: bool) -> list[Any]:
    """Returns the steps of the test pipeline after those that read the image and its labels."""
    steps = test_dataset(config).get('pipeline') or [dict(type='PackSegInputs')]
    without = () if resize else _RESIZES
    return [
        step
        for step in steps
        if not is_loader(step) and component_name(step.get('type')) not in without
    ]


def _names(meta: Mapping[str, Any], head: Any) -> tuple[list[str], np.ndarray]:
    """Returns names and colours (count, 3) RGB; generates those that do not fit the classes."""
    names = list(meta.get('classes') or ())
    palette = np.array(meta.get('palette') or (), dtype=np.uint8).reshape(-1, 3)
    if len(names) not in class_counts(head):
        names = [f'class {index}' for index in range(head.num_classes)]
    if len(palette) != len(names):
        palette = distinct_colours(len(names))
    return names, palette


def _reduces_zero_label(meta: Mapping[str, Any], dataset: Mapping[str, Any]) -> bool:
    """Reads it from meta data, a config's data set, or what the class of that does by itself."""
    for source in (dataset, meta):
        if source.get('reduce_zero_label') is not None:
            return bool(source['reduce_zero_label'])
    kind = dataset.get('type')
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    for base in getattr(kind, '__mro__', ()):
        found = inspect.signature(base.__init__).parameters.get('reduce_zero_label')
        if found is not None:
            return bool(found.default)
    return False
