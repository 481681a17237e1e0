"""Which classes are thin or small: the first that merging tokens can lose."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

RADIUS = 10
"""Pixels from its border within which a fine class lies for the most part."""


def count_pixels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How much of each class there is, and how much of it lies deep inside.

    A pixel's distance to the border is the Euclidean one to the nearest pixel of another class or
    without a label. The edge of the image is no border.

    Args:
        labels: (H, W); those from ``num_classes`` on are none.
        num_classes: K.

    Returns:
        (K, 2) int64: all pixels, and those farther than ``RADIUS`` from the border.
    """
    counts = np.zeros((num_classes, 2), dtype=np.int64)
    present = np.unique(labels)
    for label in present[(present >= 0) & (present < num_classes)]:
        mask = _cut_out(labels == label).astype(np.uint8)
        # exact where the other distances of OpenCV are approximations
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        counts[label] = np.count_nonzero(mask), np.count_nonzero(distance > RADIUS)
    return counts


def find_fine_classes(counts: Iterable[np.ndarray]) -> list[int]:
    """Classes of which less than half lies deep inside.

    Args:
        counts: of all images, see :func:`count_pixels`.
    """
    total, deep = np.sum(list(counts), axis=0).T
    return [int(label) for label in np.flatnonzero(2 * deep < total)]


def _cut_out(mask: np.ndarray) -> np.ndarray:
    """What is set, with one pixel around it where there is one: no border lies farther away."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    return mask[top : rows[-1] + 2, left : columns[-1] + 2]
