"""Predictions as files: label maps, pictures of them, keypoints. Written beside and renamed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import SegformerPlusPlusError
from ..files import replace

if TYPE_CHECKING:
    from mmpose.structures import PoseDataSample

_ROWS = 1024  # that are blended at once


def save_mask(path: Path, labels: np.ndarray) -> None:
    """Labels (H, W) as a PNG of 8 bits, or of 16 where there are labels above 255.

    Raises:
        OSError: the folder is full or cannot be written; an older file stays as it was.
    """
    kind = np.uint8 if labels.max(initial=0) <= 255 else np.uint16
    _save(path, Image.fromarray(labels.astype(kind)), 'PNG')


def save_picture(path: Path, image: np.ndarray) -> None:
    """An image (H, W, 3) uint8 BGR, in the format of its suffix.

    Raises:
        OSError: as for :func:`save_mask`.
    """
    _save(path, Image.fromarray(np.ascontiguousarray(image[..., ::-1])), _format(path))


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: np.ndarray, opacity: float = 0.5
) -> np.ndarray:
    """Blend the colours of labels (H, W) into an image (H, W, 3) uint8 BGR.

    Args:
        image: not changed.
        labels: those beyond the palette leave the image as it is.
        palette: (K, 3) uint8 RGB.
        opacity: 0: the image, 1: the colours.

    Raises:
        SegformerPlusPlusError: the opacity is not in [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise SegformerPlusPlusError(f'opacity is {opacity}; give a number from 0 to 1')
    result = np.array(image)
    colours = palette[:, ::-1].astype(np.float32)
    for start in range(0, len(image), _ROWS):
        part, of = result[start : start + _ROWS], labels[start : start + _ROWS]
        known = of < len(colours)
        blended = (1 - opacity) * part[known] + opacity * colours[of[known]]
        part[known] = np.rint(blended).astype(np.uint8)
    return result


def keypoints_record(name: str, sample: PoseDataSample) -> dict[str, Any]:
    """Plain values of one picture, to be written as JSON: all people with all keypoints.

    Keypoints are [x, y, score] in pixels of the picture, boxes left, top, right, bottom.
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
    """Records of :func:`keypoints_record` as one JSON file.

    Raises:
        OSError: as for :func:`save_mask`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {'keypoint_names': list(keypoint_names), 'images': list(records)}
    replace(path, (json.dumps(content, indent=1, allow_nan=False) + '\n').encode())


def _save(path: Path, image: Image.Image, kind: str) -> None:
    stream = io.BytesIO()
    image.save(stream, format=kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, stream.getvalue())


def _format(path: Path) -> str:
    kinds = Image.registered_extensions()
    if path.suffix.lower() not in kinds:
        raise SegformerPlusPlusError(f'{path}: no image format has this suffix; use .png or .jpg')
    return kinds[path.suffix.lower()]
