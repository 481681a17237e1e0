"""Semantic segmentation of images, folders and videos with a model of mmseg."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from torch import nn

from ..errors import SegformerPlusPlusError, memory_errors
from .labels import label_dtype
from .opening import dataset_meta, prepare_model, test_dataset
from .predictor import Predictor
from .sources import Picture
from .tiling import Tiles, predict_tiles

_READS = 'LoadImage', 'LoadAnnotations', 'LoadImageFromFile', 'LoadImageFromNDArray'
_RESIZES = 'Resize', 'RandomResize', 'ResizeShortestEdge', 'ResizeToMultiple'
_ADVICE = 'try a smaller batch_size (--batch-size), or tiles (tile, --tile)'
_PACK = [dict(type='PackSegInputs')]


class Segmenter(Predictor[SegDataSample]):
    """A segmentor, with its test pipeline, names and colours.

        segmenter = Segmenter('configs/...py', 'weights.pth', token_merging='hq')
        sample = segmenter('street.png')  # sample.pred_sem_seg.data: (1, H, W) labels

    Args:
        config_or_model: config file or config of mmseg, or a model of mmseg that is built.
        checkpoint: its weights, from any library that the package reads; loaded strictly.
        token_merging: a preset or strategy in place of the config's.
        device: None: CUDA if there is one.
        batch_size: images of one size in a forward pass; tiles of an image.
        tile: height and width, or one number for both: cut larger images into tiles of this size,
            without the pipeline's resizing. Memory then depends on the tile, except for the image
            and its labels, one byte per pixel.
        overlap: of neighbouring tiles, in pixels (128, or a quarter of a smaller tile); the seam
            runs through its middle.
        keep_logits: keep ``seg_logits`` in the samples, where the model makes them.
        cfg_options: dotted keys of the config and their new values.

    Raises:
        SegformerPlusPlusError: see :func:`~.opening.prepare_model`; tiles that do not go together.
        CheckpointError: the checkpoint does not fit.
    """

    def __init__(
        self,
        config_or_model: str | os.PathLike[str] | Config | nn.Module,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        token_merging: Any = None,
        device: str | torch.device | None = None,
        batch_size: int = 1,
        tile: int | tuple[int, int] | None = None,
        overlap: int | None = None,
        keep_logits: bool = False,
        cfg_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.tiles = None if tile is None else Tiles.of(tile, overlap)
        if self.tiles and keep_logits:
            raise SegformerPlusPlusError('tiles keep no logits: leave out tile or keep_logits')
        model, config, meta = prepare_model(
            config_or_model, checkpoint, 'mmseg', token_merging, device, cfg_options
        )
        super().__init__(model, batch_size)
        if not hasattr(model, 'decode_head'):
            raise SegformerPlusPlusError(
                f'a {type(model).__name__} is no segmentor of mmseg: it has no decode_head'
            )
        self.keep_logits = keep_logits
        self.any_size = self.tiles is not None
        known = getattr(model, 'dataset_meta', None) or dataset_meta(config, meta, DATASETS)
        self.classes, self.palette = _names(known, self.model.decode_head.num_classes)
        init_default_scope('mmseg')
        self._pipeline = Compose(_pipeline(config, resize=self.tiles is None))

    def labels(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 BGR -> (H, W) labels, without tiles."""
        return _labels_of(self._run([('array', image)])[0])

    def prepare(self, name: str, image: np.ndarray) -> dict[str, Any]:
        """(H, W, 3) uint8 BGR -> 'inputs' and 'data_samples', as the test pipeline packs them."""
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
        size = image.shape[:2]
        sample = SegDataSample(
            metainfo=dict(img_path=picture.name, ori_shape=size, img_shape=size, pad_shape=size)
        )
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(labels)[None])
        return sample

    def _run(self, images: Sequence[tuple[str, np.ndarray]]) -> list[SegDataSample]:
        """Forward passes of neighbours of one size."""
        prepared = (self.prepare(name, image) for name, image in images)
        samples: list[SegDataSample] = []
        for _, same in groupby(prepared, key=_shapes):
            batch = list(same)
            data = {key: [each[key] for each in batch] for key in ('inputs', 'data_samples')}
            with torch.inference_mode(), memory_errors('prediction', _ADVICE):
                results = self.model.test_step(data)
            samples += map(self._leave, results)
        return samples

    def _leave(self, sample: SegDataSample) -> SegDataSample:
        if not self.keep_logits and 'seg_logits' in sample:
            del sample.seg_logits
        return sample.to('cpu')


def _shapes(prepared: Mapping[str, Any]) -> tuple[Any, ...]:
    """What has to be the same in a batch: the size now, and the one to go back to."""
    return prepared['inputs'].shape, prepared['data_samples'].ori_shape


def _labels_of(sample: SegDataSample) -> np.ndarray:
    labels: np.ndarray = sample.pred_sem_seg.data[0].numpy()
    return labels


def _pipeline(config: Config | None, resize: bool) -> list[Any]:
    """The steps of testing that follow reading; labels are not read."""
    steps = list(test_dataset(config).get('pipeline') or [])
    if not steps:
        return _PACK
    without = (*_READS, *(() if resize else _RESIZES))
    return [step for step in steps if not str(step['type']).endswith(without)]


def _names(meta: Mapping[str, Any], count: int) -> tuple[list[str], np.ndarray]:
    """Names and colours (count, 3) RGB; drawn ones where there are none for all classes."""
    names = list(meta.get('classes') or ())
    palette = np.array(meta.get('palette') or (), dtype=np.uint8).reshape(-1, 3)
    if len(names) != count:
        names = [f'class {index}' for index in range(count)]
    if len(palette) != count:
        palette = np.array(list(_colours(count)), dtype=np.uint8).reshape(-1, 3)
    return names, palette


def _colours(count: int) -> Iterator[tuple[int, int, int]]:
    """PASCAL VOC's: the bits of the label spread over the three channels."""
    for label in range(count):
        colour = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                colour[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
        yield colour[0], colour[1], colour[2]
