"""Writes synthetic jumpers to disk: Jump-Broadcast as it comes or converted, or as COCO 2017."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.progress import track

from segformer_plusplus.files import replace
from segformer_plusplus.pose.keypoints import COCO, JBD
from tools.dataset_files import JPEG, Record, check_amounts, encode, run
from tools.dataset_generators.jumper_tables import (
    Annotated,
    Frame,
    box_csv,
    keypoint_csv,
    keypoint_json,
)
from tools.dataset_generators.jumpers import GENERATOR_VERSION, Person, check_size, draw_jumpers

EVENTS: Mapping[str, tuple[str, ...]] = {
    'train': (
        'triple_jump_01',
        'high_jump_01',
        'long_jump_01',
        'triple_jump_02',
        'high_jump_02',
        'long_jump_02',
    ),
    'val': ('triple_jump_03', 'high_jump_03', 'long_jump_03'),
}
"""Jump-Broadcast's events of each split: no event is in both."""

_FIRST_FRAME, _FRAME_STEP = 12, 7

_PARTS = '.unfinished'
"""Holds each frame's annotation until all are there, in the folder that is being filled."""


@dataclass(frozen=True)
class _Layout:
    """How a layout stores a set.

    Attributes:
        name: Of the layout.
        frame: Names the frame of a split, an index and a size.
        tables: Makes the text of each annotation file, by its path in the set's folder.
        contents: What else lies in the set's folder.
    """

    name: str
    frame: Callable[[str, int, tuple[int, int]], Frame]
    tables: Mapping[str, Callable[[Annotated], str]]
    contents: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """One frame to draw in a set's folder."""

    folder: Path
    frame: Frame
    seed: tuple[int, int, int]

    @property
    def image(self) -> Path:
        return self.folder / self.frame.image

    @property
    def part(self) -> Path:
        return self.folder / _PARTS / f'{self.frame.split}_{self.frame.index}.json'


def write_jbd(
    root: str | os.PathLike[str],
    *,
    train: int,
    val: int,
    size: tuple[int, int] = (540, 960),
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> None:
    """Writes jumpers as converted Jump-Broadcast: COCO's JSON with 20 keypoints, one athlete each.

    The pictures are `images/<split>/<event>/<event>_(00012).jpg`, their keypoints
    `annotations/<split>_jump.json`. People in the background are not annotated.

    The files depend on `size`, `seed` and the numbers of images, not on `workers`. A call that was
    interrupted is continued by the same call; a complete folder is left as it is. With more than
    one worker the calling script needs the usual `if __name__ == '__main__':`.

    Args:
        root: The folder to fill; made if it is missing.
        train: Number of training images.
        val: Number of validation images.
        size: Height and width in pixels, from 96 x 128 to 1080 x 1920.
        seed: A whole number, not below 0.
        workers: Number of processes that draw.
        progress: Whether to show a progress bar.

    Raises:
        SegformerPlusPlusError: For a value that is not allowed, or a folder that holds other data.
    """
    _write(root, _JBD, train, val, size, seed, workers, progress)


def write_jbd_raw(
    root: str | os.PathLike[str],
    *,
    train: int,
    val: int,
    size: tuple[int, int] = (540, 960),
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> None:
    """Writes the same jumpers as Jump-Broadcast is distributed: frames and three csv files.

    The pictures are `<event>/<event>_(00012).jpg`, their keypoints `train.csv` and `val.csv` (a
    comment, a header, `;` between the columns), their boxes `bbox.csv`; one frame in ten has no
    box. Arguments, errors and behaviour are those of `write_jbd`.
    """
    _write(root, _JBD_RAW, train, val, size, seed, workers, progress)


def write_coco(
    root: str | os.PathLike[str],
    *,
    train: int,
    val: int,
    size: tuple[int, int] = (480, 640),
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> None:
    """Writes jumpers as COCO 2017 does: 17 keypoints, one to three athletes in a picture.

    The pictures are `<split>2017/<12 digits>.jpg`, their keypoints
    `annotations/person_keypoints_<split>2017.json`. Arguments, errors and behaviour are those of
    `write_jbd`.
    """
    _write(root, _COCO, train, val, size, seed, workers, progress)


def _write(
    root: str | os.PathLike[str],
    layout: _Layout,
    train: int,
    val: int,
    size: tuple[int, int],
    seed: int,
    workers: int,
    progress: bool,
) -> None:
    check_size(size)
    check_amounts(train, val, seed, workers)
    folder = Path(root)
    height, width = (int(n) for n in size)
    amounts = {'train': train, 'val': val}
    record = Record.of_images(
        folder, 'jumpers', layout.name, size, seed, amounts, GENERATOR_VERSION
    )
    record.claim(layout.contents)

    annotated = all((folder / path).exists() for path in layout.tables)
    jobs = [
        _Job(folder, layout.frame(split, index, (height, width)), (int(seed), number, index))
        for number, (split, count) in enumerate(amounts.items())
        for index in range(count)
    ]
    missing = [job for job in jobs if not (job.image.exists() and (annotated or job.part.exists()))]
    written = [path for job in missing for path in (job.image, job.part)]
    for parent in {path.parent for path in (*written, *(folder / name for name in layout.tables))}:
        parent.mkdir(parents=True, exist_ok=True)
    done = run(_draw, missing, min(workers, len(missing)))
    for _ in track(done, 'Drawing jumpers', len(missing), disable=not (progress and missing)):
        pass
    if not annotated:
        people = [(job.frame, _read_part(job.part)) for job in jobs]
        for path, text in layout.tables.items():
            replace(folder / path, text(people).encode())
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    record.save(complete=True)


def _draw(job: _Job) -> None:
    frame = job.frame
    discipline = frame.event.rpartition('_')[0] or None
    # In COCO everybody counts: nobody is left without annotation.
    drawn = draw_jumpers(
        job.seed, frame.size, frame.people, discipline=discipline, bystanders=bool(frame.event)
    )
    replace(job.image, encode(drawn.image[..., ::-1], '.jpg', JPEG))
    part = [
        {**asdict(person), 'jbd': person.jbd.tolist(), 'coco': person.coco.tolist()}
        for person in drawn.people
    ]
    replace(job.part, json.dumps(part).encode())


def _read_part(path: Path) -> list[Person]:
    return [
        Person(np.array(one['jbd']), np.array(one['coco']), tuple(one['box']), one['area'])
        for one in json.loads(path.read_text(encoding='utf-8'))
    ]


def _jbd_frame(folder: str, split: str, index: int, size: tuple[int, int]) -> Frame:
    events = EVENTS[split]
    event = events[index % len(events)]
    number = _FIRST_FRAME + _FRAME_STEP * (index // len(events))
    name = f'{event}/{event}_({number:05d}).jpg'
    return Frame(split, index, size, folder.format(split=split), name, index + 1, event, number)


def _coco_frame(split: str, index: int, size: tuple[int, int]) -> Frame:
    # As in COCO, no two pictures of both splits have one name.
    number = 2 * index + (1 if split == 'train' else 2)
    name = f'{number:012d}.jpg'
    return Frame(split, index, size, f'{split}2017', name, number, people=1 + index % 3)


_JBD = _Layout(
    'jbd',
    partial(_jbd_frame, 'images/{split}'),
    {f'annotations/{split}_jump.json': partial(keypoint_json, JBD, split) for split in EVENTS},
    ('annotations', 'images'),
)
_JBD_RAW = _Layout(
    'jbd-raw',
    partial(_jbd_frame, ''),
    {f'{split}.csv': partial(keypoint_csv, split) for split in EVENTS} | {'bbox.csv': box_csv},
    ('train.csv', 'val.csv', 'bbox.csv', *EVENTS['train'], *EVENTS['val']),
)
_COCO = _Layout(
    'coco',
    _coco_frame,
    {
        f'annotations/person_keypoints_{split}2017.json': partial(keypoint_json, COCO, split)
        for split in EVENTS
    },
    ('annotations', 'train2017', 'val2017'),
)
