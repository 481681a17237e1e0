"""Fills a folder with drawn images: goes on where a run stopped, refuses a folder of others."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import track

from segformer_plusplus.cli.options import Shape
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.files import replace
from tools.dataset_files import check_whole, run
from tools.dataset_generators.drawing import Drawing

_UNFINISHED = '.unfinished'
"""The folder of each frame's annotation until all are drawn and go into one file."""


@dataclass(frozen=True)
class Frame:
    """Names one image of a data set.

    Attributes:
        split: 'train' or 'val'.
        index: Its place in the split, from 0.
        folder: Where the images of the split are, relative to the data set.
        name: The image file, relative to `folder`.
        labels: The label map, relative to the data set; '' for people.
        id: Its number in COCO's files.
        event: Jump-Broadcast's name of the competition; '' in COCO.
        number: Its number in the event.
        people: Number of annotated athletes.
    """

    split: str
    index: int
    folder: str
    name: str
    labels: str = ''
    id: int = 0
    event: str = ''
    number: int = 0
    people: int = 1


@dataclass(frozen=True)
class Job:
    """Holds a frame to draw, its (height, width), its seed, and the folder of the data set."""

    root: Path
    frame: Frame
    size: tuple[int, int]
    seed: tuple[int, int, int]

    @property
    def image(self) -> Path:
        """Returns the image file to write."""
        return self.root / self.frame.folder / self.frame.name

    @property
    def annotation(self) -> Path:
        """Returns the label map to write, or the file of the people until all are drawn."""
        unfinished = f'{_UNFINISHED}/{self.frame.split}_{self.frame.index}.json'
        return self.root / (self.frame.labels or unfinished)

    def save_image(self, pixels: np.ndarray) -> None:
        """Writes the image, (H, W, 3) uint8 RGB, as its suffix says."""
        _save_pixels(self.image, pixels[..., ::-1])

    def save_labels(self, labels: np.ndarray) -> None:
        """Writes the label map, (H, W) uint8."""
        _save_pixels(self.annotation, labels)


People = list[dict[str, Any]]
Annotated = Sequence[tuple[Job, People]]
"""All frames of a data set in order, each with the people on it."""


@dataclass(frozen=True)
class Layout:
    """Says how a data set is stored.

    Attributes:
        name: Name of the layout on the command line.
        drawing: What is drawn; the record file in the folder has its name.
        size: Usual (height, width).
        frame: Names the frame of a split and an index.
        draw: Draws and writes one frame. A function of a module: other processes import it.
        contents: Names in the folder that belong to the layout.
        tables: Makes the text of each annotation file, by its path in the folder.
    """

    name: str
    drawing: Drawing
    size: tuple[int, int]
    frame: Callable[[str, int], Frame]
    draw: Callable[[Job], None]
    contents: tuple[str, ...]
    tables: Mapping[str, Callable[[Annotated], str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """Says how images are drawn, for the console.

    Attributes:
        size: height and width in pixels (default: that of the layout).
        seed: 0 or more.
        workers: processes.
    """

    size: Shape | None = None
    seed: int = 0
    workers: int = 2


def write(
    layout: Layout,
    root: str | os.PathLike[str],
    *,
    train: int,
    val: int,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> None:
    """Draws a data set into a folder.

    The same call goes on where an interrupted one stopped, and leaves a complete folder as it is.
    The files do not depend on `workers`; with more than one the calling script needs the usual
    `if __name__ == '__main__':`.

    Args:
        layout: Which data set.
        root: Folder to fill; made if it is missing.
        train: Number of training images.
        val: Number of validation images.
        size: Height and width in pixels; None for the usual one.
        seed: A whole number, 0 or more.
        workers: Number of processes that draw.
        progress: Whether to show a progress bar.

    Raises:
        SegformerPlusPlusError: For a value that is not allowed, or a folder that holds other data.
    """
    size = layout.size if size is None else size
    layout.drawing.check_size(size)
    for name, value, least in (
        ('train', train, 0),
        ('val', val, 0),
        ('seed', seed, 0),
        ('workers', workers, 1),
    ):
        check_whole(name, value, least)
    height, width = (int(side) for side in size)
    folder, amounts, kind = Path(root), {'train': int(train), 'val': int(val)}, layout.drawing.name
    record = folder / f'{kind}.json'
    asked = {
        **{'layout': layout.name, 'size': [height, width], 'seed': int(seed), **amounts},
        'generator_version': layout.drawing.version,
    }
    _claim(record, asked, layout.contents)

    jobs = [
        Job(folder, layout.frame(split, index), (height, width), (int(seed), number, index))
        for number, (split, amount) in enumerate(amounts.items())
        for index in range(amount)
    ]
    tables = [folder / path for path in layout.tables]
    listed = bool(tables) and all(path.exists() for path in tables)
    missing = [
        job for job in jobs if not (job.image.exists() and (listed or job.annotation.exists()))
    ]
    files = [path for job in missing for path in (job.image, job.annotation)]
    for parent in {path.parent for path in (*files, *tables)}:
        parent.mkdir(parents=True, exist_ok=True)
    done = run(layout.draw, missing, min(workers, len(missing)))
    for _ in track(done, f'Drawing {kind}', len(missing), disable=not (progress and missing)):
        pass
    if not listed:
        people = [(job, json.loads(job.annotation.read_text())) for job in jobs if tables]
        for path, text in zip(tables, layout.tables.values(), strict=True):
            replace(path, text(people).encode())
    shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)
    _save(record, asked, complete=True)


def _claim(record: Path, asked: Mapping[str, Any], contents: Sequence[str]) -> None:
    """Checks that a folder holds what is asked for, or nothing of that kind, by its record."""
    folder, wanted = record.parent, _listed(asked)
    if record.exists():
        try:
            held = json.loads(record.read_text(encoding='utf-8'))
            held.pop('complete', None)
        except (ValueError, AttributeError):
            raise SegformerPlusPlusError(
                f'{record} cannot be read as JSON: name another folder, or remove this one'
            ) from None
        if held != asked:
            raise SegformerPlusPlusError(
                f'{folder} holds other {record.stem} ({_listed(held)}) than asked for '
                f'({wanted}): name another folder, or remove this one'
            )
        return
    for name in contents:
        if (folder / name).exists():
            raise SegformerPlusPlusError(
                f'{folder / name} exists without {record.name} beside it, so it is not ours to '
                f'add to: name another folder for {wanted}'
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise SegformerPlusPlusError(f'{folder} is not a folder: name another one') from None
    _save(record, asked, complete=False)


def _save(record: Path, asked: Mapping[str, Any], complete: bool) -> None:
    text = json.dumps({**asked, 'complete': complete}, indent=2) + '\n'
    # a complete folder stays untouched
    if not record.exists() or record.read_text(encoding='utf-8') != text:
        replace(record, text.encode())


def _listed(record: Mapping[str, Any]) -> str:
    return ', '.join(f'{key}={value}' for key, value in record.items())


def _save_pixels(path: Path, pixels: np.ndarray) -> None:
    png = path.suffix == '.png'
    parameters = (cv2.IMWRITE_PNG_COMPRESSION, 1) if png else (cv2.IMWRITE_JPEG_QUALITY, 92)
    _, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(pixels), parameters)
    replace(path, encoded.tobytes())
