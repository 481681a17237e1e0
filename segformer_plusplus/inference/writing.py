"""Writes predictions: label maps, pictures and keypoints, each file completely or not at all."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
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
_COCO_NAME = re.compile(r'(?:^|_)(\d{12})$')  # 000000000139, COCO_val2014_000000000139
_COCO_LEAST_SCORE = 0.2  # of keypoints that count, as mmpose's CocoMetric has it


def save_mask(path: Path, labels: np.ndarray) -> None:
    """Writes labels (H, W) as a PNG of 8 bits, or of 16 bits if there are labels above 255.

    Raises:
        OSError: the disk is full or the folder cannot be written; an older file stays as it was.
    """
    _save_png(path, _grey(labels))


def save_colour_mask(path: Path, labels: np.ndarray, palette: np.ndarray) -> None:
    """Writes labels (H, W) as a PNG of palette colours, see ``colour_mask``.

    Raises:
        OSError: as for ``save_mask``.
    """
    _save_png(path, colour_mask(labels, palette))


def colour_mask(labels: np.ndarray, palette: np.ndarray) -> Image.Image:
    """Makes of labels (H, W) an image of palette colours, whose values are the labels.

    As a PNG it shows the colours, and Pillow and mmseg read the labels; OpenCV reads colours. Where
    there are labels above 255 it is as ``save_mask`` writes it.

    Args:
        palette: (K, 3) uint8 RGB; of a single one, 1 is the label (``labels.first_label``).
    """
    image = _grey(labels)
    if image.mode == 'L':
        table = np.zeros((256, 3), np.uint8)  # black where no class is
        colours = palette[: len(table)]
        first = first_label(len(palette))
        table[first : first + len(colours)] = colours
        image.putpalette(table.tobytes())
    return image


def _grey(labels: np.ndarray) -> Image.Image:
    kind = np.uint8 if labels.max(initial=0) <= 255 else np.uint16
    return Image.fromarray(labels.astype(kind))


def save_picture(path: Path, image: np.ndarray) -> None:
    """Writes an image (H, W, 3) uint8 BGR as a PNG.

    Raises:
        OSError: as for ``save_mask``.
    """
    size = image.shape[1], image.shape[0]
    pixels = np.ascontiguousarray(image)
    _save_png(path, Image.frombuffer('RGB', size, pixels, 'raw', 'BGR', 0, 1))


def _save_png(path: Path, image: Image.Image) -> None:
    stream = io.BytesIO()
    image.save(stream, format='PNG')
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, stream.getvalue())


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    palette: np.ndarray,
    opacity: float = 0.5,
    beside: int = 0,
) -> np.ndarray:
    """Blends the colours of labels (H, W) into a copy of an image, BGR; see ``visible``.

    Args:
        image: is not changed.
        labels: labels beyond the palette leave the image as it is.
        palette: (K, 3) uint8 RGB; of a single one, 1 is the label (``labels.first_label``).
        opacity: from 0, the image, to 1, the colours.
        beside: black columns at the right, for a ``legend.Legend``.

    Raises:
        SegformerPlusPlusError: the opacity is not in [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise SegformerPlusPlusError(f'opacity is {opacity}; give a number from 0 to 1')
    shown = visible(image)
    height, width = shown.shape[:2]
    result = np.zeros((height, width + beside, 3), np.uint8)
    result[:, :width] = shown
    colours = palette[:, ::-1].astype(np.float32)
    first = first_label(len(colours))
    for start in range(0, height, _ROWS):
        part, of = result[start : start + _ROWS, :width], labels[start : start + _ROWS]
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
    """Writes the records of ``keypoints_record`` as one JSON file.

    Raises:
        OSError: as for ``save_mask``.
    """
    write_json(path, {'keypoint_names': list(keypoint_names), 'images': list(records)})


def coco_results(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turns records of ``keypoints_record`` into a list of COCO results, one for each person.

    Scores are those of mmpose's ``CocoMetric`` for a box of score 1: the mean of the keypoints'
    scores above 0.2, or 0 if there are none. The id of an image is the number in its name where all
    are named as COCO's own, such as 000000000139.jpg; else images are counted from 1.
    """
    results = []
    for image_id, record in zip(_image_ids(records), records, strict=True):
        for person in record['people']:
            left, top, right, bottom = person['box']
            scores = [s for _, _, s in person['keypoints'] if s > _COCO_LEAST_SCORE]
            results.append(
                {
                    'image_id': image_id,
                    'category_id': 1,
                    'file_name': record['image'],
                    'bbox': [left, top, round(right - left, 2), round(bottom - top, 2)],
                    'keypoints': [number for point in person['keypoints'] for number in point],
                    'score': sum(scores) / max(len(scores), 1),
                }
            )
    return results


def _image_ids(records: Sequence[Mapping[str, Any]]) -> Sequence[int]:
    """Returns a number for each picture, different ones for all of them."""
    found = [_COCO_NAME.search(PurePosixPath(record['image']).stem) for record in records]
    ids = [int(match[1]) for match in found if match]
    return ids if len(set(ids)) == len(records) else range(1, len(records) + 1)
