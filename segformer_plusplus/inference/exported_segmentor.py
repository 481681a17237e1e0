"""Predicts labels by an exported file, whatever size the images have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from ..segmentation.segmentor import EncoderDecoderPlusPlus
from .labels import label_dtype
from .tiling import Tiles, predict_tiles


@MODELS.register_module(force=True)
class ExportedSegmentor(EncoderDecoderPlusPlus):
    """Predicts as the model predicts that was exported.

    Images that the file does not take as they are, are padded at the right and the bottom with the
    mean of the data, and cut into overlapping tiles where they are larger. Their labels, and those
    of files that give labels, are resized to the size of the picture by the nearest neighbour; else
    logits are, as mmseg does it.

    Args:
        data_preprocessor: see mmseg's segmentors.
        backbone: config of an ``exported.ExportedGraph``.
        decode_head: config of an ``exported.ExportedHead``.
        test_cfg: of mmseg; whole images alone are known.
    """

    def __init__(
        self, data_preprocessor: Any, backbone: Any, decode_head: Any, test_cfg: Any = None
    ) -> None:
        BaseSegmentor.__init__(self, data_preprocessor=data_preprocessor)
        self.labels_only = True
        self.backbone = MODELS.build(backbone)
        self.decode_head = MODELS.build(decode_head)
        self.align_corners = self.decode_head.align_corners
        self.num_classes = self.decode_head.num_classes
        self.out_channels = self.decode_head.out_channels
        self.test_cfg = test_cfg

    def predict(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> list[SegDataSample]:
        """Predicts data samples with ``pred_sem_seg``, labels (1, H, W), of images (B, C, H, W)."""
        if self.backbone.output == 'logits' and self.backbone.takes(inputs.shape[2:]):
            return super().predict(inputs, data_samples)
        samples = data_samples or [SegDataSample() for _ in inputs]
        for sample, labels in zip(samples, self.predict_labels(inputs), strict=True):
            size = sample.metainfo.get('ori_shape', labels.shape)[:2]
            if tuple(size) != tuple(labels.shape):
                resized = F.interpolate(labels[None, None].float(), tuple(size), mode='nearest')
                labels = resized[0, 0].long()
            sample.set_data({'pred_sem_seg': PixelData(data=labels[None])})
        return samples

    def predict_labels(self, inputs: Tensor) -> Tensor:
        """Predicts labels (B, H, W) of whole images (B, C, H, W)."""
        graph, size = self.backbone, tuple(inputs.shape[2:])
        if graph.takes(size):
            return self._labels(inputs)
        window = graph.window(size)
        if all(side <= most for side, most in zip(size, window, strict=True)):
            return self._labels(graph.padded(inputs, window))[:, : size[0], : size[1]]
        return torch.stack([self._in_tiles(image, window) for image in inputs])

    def _labels(self, inputs: Tensor) -> Tensor:
        outputs = self.decode_head(self.extract_feat(inputs))
        if self.backbone.output == 'labels':
            return outputs.long()
        return self.labels_of(outputs, (inputs.shape[2], inputs.shape[3]))

    def _in_tiles(self, image: Tensor, window: tuple[int, int]) -> Tensor:
        dtype = label_dtype(self.num_classes)

        def predict(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
            images = torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2)
            height, width = images.shape[2:]
            labels = self._labels(self.backbone.padded(images, window))[:, :height, :width]
            return list(labels.numpy().astype(dtype))

        pixels = image.permute(1, 2, 0).numpy()
        labels = predict_tiles(
            pixels, Tiles.of(window), predict, self.backbone.batch_size or 1, dtype
        )
        return torch.from_numpy(labels).long()
