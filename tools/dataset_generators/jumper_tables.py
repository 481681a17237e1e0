"""The text of the files that annotate synthetic jumpers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segformer_plusplus.pose.keypoints import JBD, KeypointSet
from tools.dataset_generators.jumpers import GENERATOR_VERSION, Person

_COMMENT = '# synthetic jumpers: pixels, and 2 for visible, 1 for hidden, 0 for not annotated'
_BOX_HEADER = 'image_id, min_x, min_y, width, height'


@dataclass(frozen=True)
class Frame:
    """One frame of a set.

    Attributes:
        split: 'train' or 'val'.
        index: Its place in the split, from 0.
        size: Height and width in pixels.
        folder: Where its split's pictures are, relative to the set's folder.
        name: Its file, relative to `folder`.
        id: Its number in COCO's files.
        event: Jump-Broadcast's name of the competition; empty in COCO.
        number: Its number in the event; 0 in COCO.
        people: Number of annotated athletes.
    """

    split: str
    index: int
    size: tuple[int, int]
    folder: str
    name: str
    id: int
    event: str = ''
    number: int = 0
    people: int = 1

    @property
    def image(self) -> Path:
        """Its file, relative to the set's folder."""
        return Path(self.folder) / self.name


Annotated = Sequence[tuple[Frame, Sequence[Person]]]
"""All frames of a set, in order, and who is annotated on them."""


def _rounded(values: np.ndarray | Sequence[float]) -> list[float]:
    return [round(float(value), 2) for value in values]


def _split(annotated: Annotated, split: str) -> Iterator[tuple[Frame, Sequence[Person]]]:
    return ((frame, people) for frame, people in annotated if frame.split == split)


def _numbers(keypoints: np.ndarray) -> Iterator[tuple[float, float, int]]:
    """x, y and visibility of each keypoint as they are stored."""
    for x, y, visible in keypoints.tolist():
        yield round(x, 2), round(y, 2), int(visible)


def keypoint_json(keypoints: KeypointSet, split: str, annotated: Annotated) -> str:
    """COCO's keypoint file of one split."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for frame, people in _split(annotated, split):
        height, width = frame.size
        image = {'id': frame.id, 'file_name': frame.name, 'width': width, 'height': height}
        images.append(image)
        for person in people:
            values = list(_numbers(person.jbd if keypoints is JBD else person.coco))
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': frame.id,
                    'category_id': 1,
                    'keypoints': [value for triple in values for value in triple],
                    'num_keypoints': sum(visible > 0 for _, _, visible in values),
                    'bbox': _rounded(person.box),
                    'area': person.area,
                    'iscrowd': 0,
                }
            )
    content = {
        'info': {'description': 'Synthetic jumpers', 'version': str(GENERATOR_VERSION)},
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': [keypoints.category()],
    }
    return json.dumps(content) + '\n'


def keypoint_csv(split: str, annotated: Annotated) -> str:
    """Jump-Broadcast's keypoints of one split: a comment, a header, a line for each frame."""
    header = ['event', 'frame_num', *(f'{name}_{what}' for name in JBD.names for what in 'xys')]
    lines = [_COMMENT, ';'.join(header)]
    for frame, (person,) in _split(annotated, split):
        values = (str(value) for triple in _numbers(person.jbd) for value in triple)
        lines.append(';'.join((frame.event, str(frame.number), *values)))
    return '\n'.join(lines) + '\n'


def box_csv(annotated: Annotated) -> str:
    """Jump-Broadcast's boxes of all frames but one in ten."""
    lines = [_BOX_HEADER]
    for frame, (person,) in annotated:
        if frame.index % 10 != 5:
            values = (str(value) for value in _rounded(person.box))
            lines.append(','.join((frame.image.stem, *values)))
    return '\n'.join(lines) + '\n'
