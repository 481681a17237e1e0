"""Lays out drawn data as Cityscapes, ADE20K, Jump-Broadcast or COCO 2017."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from segformer_plusplus.files import replace
from segformer_plusplus.pose.keypoints import COCO, JBD, KeypointSet
from tools.dataset_generators import jumpers, scenes
from tools.dataset_generators.jumpers import draw_jumpers
from tools.dataset_generators.scene_canvas import CLASSES
from tools.dataset_generators.scenes import draw_scene
from tools.dataset_generators.writing import Annotated, Frame, Job, Layout, People

CITIES = {
    'train': ('ashford', 'birkstadt', 'corvale', 'dunmere'),
    'val': ('elmburg', 'fernwick'),
}
_ADE20K_LABELS = 7, 12, 2, 1, 33, 94, 137, 44, 5, 10, 3, 13, 13, 21, 84, 81, 0, 117, 128
ADE20K_INDEX = dict(zip(CLASSES, _ADE20K_LABELS, strict=True))
"""ADE20K's label of each class: 1 to 150, or 0 where ADE20K has no such class."""

EVENTS: Mapping[str, tuple[str, ...]] = {
    'train': (
        *('triple_jump_01', 'high_jump_01', 'long_jump_01'),
        *('triple_jump_02', 'high_jump_02', 'long_jump_02'),
    ),
    'val': ('triple_jump_03', 'high_jump_03', 'long_jump_03'),
}
"""Jump-Broadcast's events of each split: no event is in both."""

_FIRST_FRAME, _FRAME_STEP = 12, 7
_COMMENT = '# synthetic jumpers: pixels, and 2 for visible, 1 for hidden, 0 for not annotated'


def _cityscapes_frame(split: str, index: int) -> Frame:
    cities = CITIES[split]
    city = cities[index % len(cities)]
    stem = f'{city}/{city}_{index // len(cities):06d}_000019'
    labels = f'gtFine/{split}/{stem}_gtFine_labelTrainIds.png'
    return Frame(split, index, f'leftImg8bit/{split}', f'{stem}_leftImg8bit.png', labels)


def _ade20k_frame(split: str, index: int) -> Frame:
    folder = {'train': 'training', 'val': 'validation'}[split]
    stem = f'ADE_{split}_{index + 1:08d}'
    labels = f'annotations/{folder}/{stem}.png'
    return Frame(split, index, f'images/{folder}', f'{stem}.jpg', labels)


def _draw_cityscapes(job: Job) -> None:
    scene = draw_scene(job.seed, job.size)
    job.save_image(scene.image)
    job.save_labels(scene.labels)


def _draw_ade20k(job: Job) -> None:
    scene = draw_scene(job.seed, job.size)
    job.save_image(scene.image)
    # 0 is "none of the 150 classes": trams and ignored pixels
    table = np.zeros(256, np.uint8)
    table[: len(CLASSES)] = _ADE20K_LABELS
    job.save_labels(table[scene.labels])


def _jbd_frame(folder: str, split: str, index: int) -> Frame:
    events = EVENTS[split]
    event = events[index % len(events)]
    number = _FIRST_FRAME + _FRAME_STEP * (index // len(events))
    name, place = f'{event}/{event}_({number:05d}).jpg', folder.format(split)
    return Frame(split, index, place, name, id=index + 1, event=event, number=number)


def _coco_frame(split: str, index: int) -> Frame:
    # As in COCO, no two images of both splits have one name.
    number = 2 * index + (1 if split == 'train' else 2)
    name = f'{number:012d}.jpg'
    return Frame(split, index, f'{split}2017', name, id=number, people=1 + index % 3)


def _draw_people(job: Job) -> None:
    event = job.frame.event
    discipline = event.rpartition('_')[0] or None
    # In COCO everybody counts: nobody is left without annotation.
    drawn = draw_jumpers(
        job.seed, job.size, job.frame.people, discipline=discipline, bystanders=bool(event)
    )
    job.save_image(drawn.image)
    people = [
        {**asdict(person), 'jbd': person.jbd.tolist(), 'coco': person.coco.tolist()}
        for person in drawn.people
    ]
    replace(job.annotation, json.dumps(people).encode())


def _of_split(split: str, annotated: Annotated) -> Iterator[tuple[Job, People]]:
    return ((job, people) for job, people in annotated if job.frame.split == split)


def _stored(keypoints: list[list[float]]) -> list[tuple[float, float, int]]:
    return [(round(x, 2), round(y, 2), int(visible)) for x, y, visible in keypoints]


def _keypoint_json(keypoints: KeypointSet, split: str, annotated: Annotated) -> str:
    """Makes COCO's keypoint file of one split."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for job, people in _of_split(split, annotated):
        (height, width), frame = job.size, job.frame
        images.append(dict(id=frame.id, file_name=frame.name, width=width, height=height))
        for person in people:
            points = _stored(person['jbd' if keypoints is JBD else 'coco'])
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': frame.id,
                    'category_id': 1,
                    'keypoints': [value for point in points for value in point],
                    'num_keypoints': sum(visible > 0 for _, _, visible in points),
                    'bbox': [round(value, 2) for value in person['box']],
                    'area': person['area'],
                    'iscrowd': 0,
                }
            )
    content = {
        'info': {'description': 'Synthetic jumpers', 'version': str(jumpers.DRAWING.version)},
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': [keypoints.category()],
    }
    return json.dumps(content) + '\n'


def _keypoint_csv(split: str, annotated: Annotated) -> str:
    """Makes Jump-Broadcast's keypoint file of one split: a comment, a header, a row a frame."""
    header = ['event', 'frame_num', *(f'{name}_{what}' for name in JBD.names for what in 'xys')]
    lines = [_COMMENT, ';'.join(header)]
    for job, (person,) in _of_split(split, annotated):
        values = (value for point in _stored(person['jbd']) for value in point)
        lines.append(';'.join(map(str, (job.frame.event, job.frame.number, *values))))
    return '\n'.join(lines) + '\n'


def _box_csv(annotated: Annotated) -> str:
    """Makes Jump-Broadcast's file of boxes, without one frame in ten."""
    lines = ['image_id, min_x, min_y, width, height']
    for job, (person,) in annotated:
        if job.frame.index % 10 != 5:
            box = (round(value, 2) for value in person['box'])
            lines.append(','.join(map(str, (job.image.stem, *box))))
    return '\n'.join(lines) + '\n'


CITYSCAPES = Layout(
    'cityscapes',
    scenes.DRAWING,
    (1024, 2048),
    _cityscapes_frame,
    _draw_cityscapes,
    ('leftImg8bit',),
)
ADE20K = Layout('ade20k', scenes.DRAWING, (1024, 2048), _ade20k_frame, _draw_ade20k, ('images',))
JUMP_BROADCAST = Layout(
    'jbd',
    jumpers.DRAWING,
    (540, 960),
    partial(_jbd_frame, 'images/{}'),
    _draw_people,
    ('annotations', 'images'),
    {f'annotations/{split}_jump.json': partial(_keypoint_json, JBD, split) for split in EVENTS},
)
"""Converted Jump-Broadcast: COCO's files with 20 keypoints, one annotated athlete in a frame."""

JUMP_BROADCAST_RAW = Layout(
    'jbd-raw',
    jumpers.DRAWING,
    (540, 960),
    partial(_jbd_frame, ''),
    _draw_people,
    ('train.csv', 'val.csv', 'bbox.csv', *EVENTS['train'], *EVENTS['val']),
    {f'{split}.csv': partial(_keypoint_csv, split) for split in EVENTS} | {'bbox.csv': _box_csv},
)
"""The same frames as Jump-Broadcast is distributed: images and three csv files."""

COCO_2017 = Layout(
    'coco',
    jumpers.DRAWING,
    (480, 640),
    _coco_frame,
    _draw_people,
    ('annotations', 'train2017', 'val2017'),
    {
        f'annotations/person_keypoints_{split}2017.json': partial(_keypoint_json, COCO, split)
        for split in EVENTS
    },
)
"""COCO 2017: 17 keypoints, one to three athletes in an image, all of them annotated."""

LAYOUTS = {
    each.name: each for each in (CITYSCAPES, ADE20K, JUMP_BROADCAST, JUMP_BROADCAST_RAW, COCO_2017)
}
