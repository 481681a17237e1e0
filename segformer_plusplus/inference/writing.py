"""Writes predictions: label maps, pictures and keypoints, each file completely or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import SegformerPlusPlusError
from ..files import replace, write_json
from .labels import first_label
from .reader import visible

if TYPE_CHECKING:
    from mmpose.structures import PoseDataSample

_ROWS = 1024  # that are blended at a time


def save_mask(path: Path, labels: np.ndarray) -> None:
    """Writes labels (H, W) as a PNG of 8 bits, or of 16 bits if there are labels above 255.

    Raises:
        OSError: the disk is full or the folder cannot be written; an older file stays as it was.
    """
    kind = np.uint8 if labels.max(initial=0) <= 255 else np.uint16
    _save_png(path, labels.astype(kind))


def save_picture(path: Path, image: np.ndarray) -> None:
    """Writes an image (H, W, 3) uint8 BGR as a PNG.

    Raises:
        OSError: as for :func:`save_mask`.
    """
    _save_png(path, np.ascontiguousarray(image[..., ::-1]))


def _save_png(path: Path, pixels: np.ndarray) -> None:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format='PNG')
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, stream.getvalue())


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: np.ndarray, opacity: float = 0.5
) -> np.ndarray:
    """Blends the colours of labels (H, W) into a copy of an image, BGR; see :func:`visible`.

    Args:
        image: is not changed.
        labels: labels beyond the palette leave the image as it is.
        palette: (K, 3) uint8 RGB; of a single one, 1 is the label (:func:`~.labels.first_label`).
        opacity: from 0, the image, to 1, the colours.

    Raises:
        SegformerPlusPlusError: the opacity is not in [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise SegformerPlusPlusError(f'opacity is {opacity}; give a number from 0 to 1')
    result = np.array(visible(image))
    colours = palette[:, ::-1].astype(np.float32)
    first = first_label(len(colours))
    for start in range(0, len(image), _ROWS):
        part, of = result[start : start + _ROWS], labels[start : start + _ROWS]
        known = (of >= first) & (of < first + len(colours))
        blended = (1 - opacity) * part[known] + opacity * colours[of[known] - first]
        part[known] = np.rint(blended).astype(np.uint8)
    return result


def keypoints_record(name: str, sample: PoseDataSample) -> dict[str, Any]:
    """Returns the people of one picture as plain values for JSON.

    Keypoints are [x, y, score] in pixels of the picture, boxes [left, top, right, bottom].
    """
    people = sample.pred_instances
    return {
        'image': name,
        'people': [
            {
                'box': np.round(np.asarray(box, dtype=float), 2).tolist(),
                'keypoints': [
                    [*np.round(np.asarray(point, dtype=float), 2).tolist(), round(float(score), 4)]
                    for point, score in zip(points, scores, strict=True)
                ],
            }
            for box, points, scores in zip(
                people.bboxes, people.keypoints, people.keypoint_scores, strict=True
            )
        ],
    }


def save_keypoints(path: Path, records: Sequence[Any], keypoint_names: Iterable[str]) -> None:
    """Writes the records of :func:`keypoints_record` as one JSON file.

    Raises:
        OSError: as for :func:`save_mask`.
    """
    write_json(path, {'keypoint_names': list(keypoint_names), 'images': list(records)})
