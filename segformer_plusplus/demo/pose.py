"""Compares the skeletons of a pose estimator."""

from __future__ import annotations

from functools import partial
from typing import Any

import cv2
import numpy as np

from ..evaluation.timing import Call
from ..inference.drawing import highlight
from ..inference.merge_maps import MergeMaps, to_inputs, turned, without_merging
from ..inference.pose import PoseEstimator, SkeletonPainter, limb_width, whole_image
from ..inference.reader import visible
from ..token_merging import PRESETS
from ..token_merging.config import PURPOSES
from .comparison import MAX_PIXELS, Entry, Outcome, StrategyComparer
from .files import FileComparer

MIN_SCORE = 0.0
"""Of a keypoint that is painted: all are, as all count for the shift."""


class _SkeletonShower:
    """Shows two skeletons in one image; the whole image is taken for one person."""

    changes = 'Moved keypoints'
    shows = 'How far each keypoint moved'

    def __init__(self, estimator: PoseEstimator) -> None:
        self._estimator = estimator
        self._painter = SkeletonPainter(estimator.meta, MIN_SCORE)

    def seen(self, image: np.ndarray) -> np.ndarray:
        """Returns what of an image (H, W, 3) the network sees, (h, w, 3) uint8 RGB."""
        box = whole_image(image)[0]
        inputs = self._estimator.prepare('image', turned(image), box)['inputs']
        return np.ascontiguousarray(turned(inputs.permute(1, 2, 0).numpy()))

    def __call__(self, image: np.ndarray, unmerged: Any, merged: Any) -> Outcome:
        old, new = (np.asarray(each.pred_instances.keypoints)[0] for each in (unmerged, merged))
        moved = np.linalg.norm(new - old, axis=-1)
        names, colours = self._estimator.keypoint_names, self._estimator.meta['keypoint_colors']
        return Outcome(
            unmerged=self._paint(image, unmerged),
            merged=self._paint(image, merged),
            changed=_lines(visible(image), old, new),
            said=f'keypoints move by {moved.mean():.2f} pixels of the image on average',
            legend=tuple(
                Entry(names[k], tuple(colours[k].tolist()), f'{moved[k]:.1f} px')
                for k in np.argsort(-moved, kind='stable')
            ),
        )

    def _paint(self, image: np.ndarray, sample: Any) -> np.ndarray:
        return np.ascontiguousarray(turned(self._painter(turned(image), sample)))


class PoseComparer(StrategyComparer):
    """Compares a top-down estimator's keypoints; the whole image is taken for one person."""

    timed = 'from the normalised cut-out to heatmaps, without flip test'
    changes, shows = _SkeletonShower.changes, _SkeletonShower.shows
    # a codec takes heatmaps of one size
    presets = {
        name: purpose for name, purpose in PURPOSES.items() if 'downsampling' not in PRESETS[name]
    }

    def __init__(self, estimator: PoseEstimator, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(estimator, max_pixels)
        self._estimator = estimator
        self._show = _SkeletonShower(estimator)

    def _seen(self, image: np.ndarray) -> np.ndarray:
        return self._show.seen(image)

    def _outcome(self, image: np.ndarray, maps: MergeMaps) -> Outcome:
        merged = self._estimator(np.ascontiguousarray(turned(image)))
        with without_merging(self.model):
            unmerged = self._estimator(np.ascontiguousarray(turned(image)))
        return self._show(image, unmerged, merged)


class PoseFileComparer(FileComparer[PoseEstimator]):
    """Compares the keypoints of files; the whole image is taken for one person."""

    timed = PoseComparer.timed
    changes, shows = _SkeletonShower.changes, _SkeletonShower.shows

    def _call(self, predictor: PoseEstimator, image: np.ndarray) -> Call:
        model: Any = predictor.model
        inputs = to_inputs(model, _SkeletonShower(predictor).seen(image))
        return partial(model.extract_feat, inputs)

    def _outcome(self, image: np.ndarray, old: PoseEstimator, new: PoseEstimator) -> Outcome:
        samples = [each(np.ascontiguousarray(turned(image))) for each in (old, new)]
        return _SkeletonShower(new)(image, *samples)


def _lines(image: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Darkens an image and marks every keypoint, with a line from where it is without merging."""
    mask = np.zeros(image.shape[:2], dtype=np.uint8)
    width = limb_width(image)
    for start, end in zip(np.rint(old).astype(int), np.rint(new).astype(int), strict=True):
        cv2.line(mask, start.tolist(), end.tolist(), 1, width)
        cv2.circle(mask, end.tolist(), 2 * width, 1, -1)
    return highlight(image, mask.astype(bool))
