"""Predicts keypoints of people with a top-down pose estimator, and paints skeletons."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.structures import InstanceData
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.structures import PoseDataSample, merge_data_samples
from mmpose.visualization import PoseLocalVisualizer
from torch import nn

from ..errors import SegformerPlusPlusError, memory_errors
from ..loading.datasets import test_dataset
from .configs import is_loader
from .predictor import Predictor
from .reader import visible
from .sources import Picture

_ADVICE = 'try a smaller batch_size (--batch-size)'
_BOXES = (
    'give a list, each as left, top, right, bottom; [] is nobody, and a picture that is left out '
    'is one person'
)
_FAR = 1e6  # pixels; no picture has so many in a row
_LIMB_WIDTH = 1 / 300  # of the longer side of the image


class PoseEstimator(Predictor[PoseDataSample]):
    """Runs a top-down pose estimator with the test pipeline of its config.

        estimator = PoseEstimator('configs/...py', 'weights.pth', token_merging='hq')
        sample = estimator('jump.jpg')  # sample.pred_instances.keypoints: (people, K, 2)

    Args:
        config_or_model: config file or config of mmpose, or a model of mmpose that is already
            built and has its ``cfg``.
        checkpoint: its weights.
        batch_size: number of people in a forward pass.
        boxes: people by the name of the picture (see ``sources.Picture``): (N, 4) left,
            top, right, bottom in pixels; [] is nobody. A picture that is not named is taken for
            one person.
        options: see ``predictor.Predictor``.

    Attributes:
        meta: mmpose's parsed meta data: names, colours, flip pairs.

    Raises:
        SegformerPlusPlusError: see ``predictor.Predictor``; no test pipeline; invalid boxes.
        CheckpointError: the checkpoint does not fit.
    """

    scope = 'mmpose'

    def __init__(
        self,
        config_or_model: str | os.PathLike[str] | Config | nn.Module,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        batch_size: int = 8,
        boxes: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.boxes = {name: check_boxes(name, each) for name, each in (boxes or {}).items()}
        super().__init__(config_or_model, checkpoint, batch_size=batch_size, **options)
        model = self.model
        steps = list(test_dataset(getattr(model, 'cfg', None)).get('pipeline') or [])
        if not hasattr(model, 'head') or not steps:
            raise SegformerPlusPlusError(
                f'a {type(model).__name__} is no top-down estimator with a test pipeline: it needs '
                'a head, and test_dataloader.dataset.pipeline in its cfg'
            )
        if not model.dataset_meta:
            raise SegformerPlusPlusError(
                'neither the checkpoint nor the config names the keypoints: give the config a '
                'test_dataloader.dataset of a data set with METAINFO'
            )
        if 'num_keypoints' not in model.dataset_meta:
            model.dataset_meta = parse_pose_metainfo(model.dataset_meta)
        self.meta: dict[str, Any] = model.dataset_meta
        self._pipeline = Compose([step for step in steps if not is_loader(step)])

    @property
    def keypoint_names(self) -> list[str]:
        """Lists the names of the keypoints by their index."""
        return [self.meta['keypoint_id2name'][k] for k in range(self.meta['num_keypoints'])]

    def _samples(self, images: Sequence[tuple[Picture, Any]]) -> list[PoseDataSample]:
        people: list[dict[str, Any]] = []
        ends = [0]
        for picture, image in images:
            whole = whole_image(image)
            for box in self.boxes.get(picture.name, whole):
                if (box[:2] >= whole[0, 2:]).any() or (box[2:] <= 0).any():
                    raise SegformerPlusPlusError(
                        f'its box {box.tolist()} lies outside: expected pixels, 0 to '
                        f'{image.shape[1]} from left to right and 0 to {image.shape[0]} downwards'
                    )
                people.append(self.prepare(picture.name, image, box))
            ends.append(len(people))
        samples: list[PoseDataSample] = []
        for start in range(0, len(people), self.batch_size):
            data = pseudo_collate(people[start : start + self.batch_size])
            with torch.inference_mode(), memory_errors('the model', _ADVICE):
                samples += [sample.cpu() for sample in self._test_step(data)]
        return [
            merge_data_samples(samples[start:end]) if end > start else self._nobody()
            for start, end in pairwise(ends)
        ]

    def _nobody(self) -> PoseDataSample:
        count = self.meta['num_keypoints']
        nothing = InstanceData(
            bboxes=np.empty((0, 4), np.float32),
            keypoints=np.empty((0, count, 2), np.float32),
            keypoint_scores=np.empty((0, count), np.float32),
        )
        return PoseDataSample(pred_instances=nothing)

    def prepare(self, name: str, image: np.ndarray, box: np.ndarray) -> dict[str, Any]:
        """Runs the test pipeline for one person.

        Args:
            name: of the picture.
            image: (H, W, 3) uint8 BGR.
            box: (4,) left, top, right, bottom in pixels.

        Returns:
            The 'inputs' and 'data_samples' of the person.
        """
        size = image.shape[:2]
        prepared: dict[str, Any] = self._pipeline(
            dict(
                self.meta,
                img=np.ascontiguousarray(image),
                img_path=name,
                img_shape=size,
                ori_shape=size,
                bbox=box[None],
                bbox_score=np.ones(1, dtype=np.float32),
            )
        )
        return prepared


def whole_image(image: np.ndarray) -> np.ndarray:
    """Returns the box (1, 4) float32 of a picture that is taken for one person."""
    height, width = image.shape[:2]
    return np.array([[0, 0, width, height]], dtype=np.float32)


def check_boxes(name: str, boxes: Any) -> np.ndarray:
    """Checks the boxes of one picture and returns them as (N, 4) float32.

    Raises:
        SegformerPlusPlusError: no numbers, another shape, or a box without an area.
    """
    try:
        array = np.asarray(boxes, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise SegformerPlusPlusError(
            f'boxes of {name}: {reprlib.repr(boxes)} are no numbers; {_BOXES}'
        ) from error
    if array.shape == (0,):
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise SegformerPlusPlusError(
            f'boxes of {name}: {reprlib.repr(boxes)} has the shape {array.shape}; {_BOXES}'
        )
    sides = array[:, 2:] - array[:, :2]
    wrong = ~((sides > 0) & (abs(array[:, :2]) < _FAR) & (abs(array[:, 2:]) < _FAR)).all(axis=1)
    if wrong.any():
        raise SegformerPlusPlusError(
            f'boxes of {name}: {array[wrong][0].tolist()} has no area, or none in a picture; '
            'expected left, top, right, bottom in pixels'
        )
    return array


def limb_width(image: np.ndarray) -> int:
    """Returns the width in pixels of what is painted on an image (H, W, 3)."""
    return max(1, round(max(image.shape[:2]) * _LIMB_WIDTH))


class SkeletonPainter:
    """Paints boxes and skeletons of people.

    Args:
        meta: mmpose's parsed meta data.
        min_score: keypoints with a lower score, and their limbs, are left out.
    """

    def __init__(self, meta: Mapping[str, Any], min_score: float) -> None:
        self._min_score = min_score
        self._painter = PoseLocalVisualizer(name='segformer_plusplus')
        self._painter.set_dataset_meta(dict(meta))

    def __call__(self, image: np.ndarray, sample: PoseDataSample) -> np.ndarray:
        """Returns a painted copy of an image (H, W, 3) uint8 BGR."""
        if not len(sample.pred_instances):
            return image.copy()
        self._painter.line_width = limb_width(image)
        self._painter.radius = 2 * self._painter.line_width
        painted: np.ndarray = self._painter.add_datasample(
            'prediction',
            np.ascontiguousarray(visible(image)[..., ::-1]),
            sample,
            draw_gt=False,
            draw_bbox=True,
            show=False,
            kpt_thr=self._min_score,
        )
        return np.ascontiguousarray(painted[..., ::-1])
