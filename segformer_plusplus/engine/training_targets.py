"""What a timed training step learns: random labels and random heatmaps, the same at every call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .models import SEED


def random_labels(images: Tensor, classes: int) -> Tensor:
    """Labels (B, H, W) int64 of every pixel of images (B, C, H, W)."""
    size = len(images), *images.shape[2:]
    return torch.randint(classes, size, generator=_generator()).to(images.device)


def random_heatmaps(shape: Sequence[int], device: torch.device) -> Tensor:
    """Target heatmaps (B, K, h, w) in [0, 1)."""
    return torch.rand(tuple(shape), generator=_generator()).to(device)


def seg_meta(size: tuple[int, int]) -> dict[str, Any]:
    """What mmseg has to know of an image of this height and width that was not padded."""
    return dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0])


def seg_data_samples(labels: Tensor) -> list[Any]:
    """mmseg's samples, one for each of the labels (B, H, W)."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    meta = seg_meta((labels.shape[1], labels.shape[2]))
    samples = [SegDataSample(metainfo=meta) for _ in labels]
    for sample, image_labels in zip(samples, labels, strict=True):
        sample.gt_sem_seg = PixelData(data=image_labels[None])
    return samples


def pose_data_samples(heatmaps: Tensor) -> list[Any]:
    """mmpose's samples, one for each of the heatmaps (B, K, h, w); every keypoint is annotated."""
    from mmengine.structures import InstanceData, PixelData
    from mmpose.structures import PoseDataSample

    samples = []
    for each in heatmaps:
        sample = PoseDataSample()
        sample.gt_fields = PixelData(heatmaps=each)
        sample.gt_instance_labels = InstanceData(keypoint_weights=each.new_ones(1, len(each)))
        samples.append(sample)
    return samples


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)
