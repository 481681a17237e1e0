"""Skeletons drawn on an image, by mmpose's own painter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmpose.structures import PoseDataSample
from mmpose.visualization import PoseLocalVisualizer

_RELATIVE = 300  # of the image's longer side: the width of a limb


class SkeletonPainter:
    """Draws the people of a data sample.

    Args:
        meta: mmpose's parsed meta data.
        min_score: keypoints below it, and their limbs, are left out.
    """

    def __init__(self, meta: Mapping[str, Any], min_score: float) -> None:
        self._min_score = min_score
        self._painter = PoseLocalVisualizer(name='segformer_plusplus')
        self._painter.set_dataset_meta(dict(meta))

    def __call__(self, image: np.ndarray, sample: PoseDataSample) -> np.ndarray:
        """(H, W, 3) uint8 BGR -> the same with boxes and skeletons."""
        self._painter.line_width = max(1, round(max(image.shape[:2]) / _RELATIVE))
        self._painter.radius = 2 * self._painter.line_width
        painted: np.ndarray = self._painter.add_datasample(
            'prediction',
            np.ascontiguousarray(image[..., ::-1]),
            sample,
            draw_gt=False,
            draw_bbox=True,
            show=False,
            kpt_thr=self._min_score,
        )
        return np.ascontiguousarray(painted[..., ::-1])
