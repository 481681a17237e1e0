"""Writes synthetic scenes to disk as Cityscapes or ADE20K lay out their files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from segformer_plusplus.files import replace
from tools.dataset_files import FASTEST_PNG, JPEG, Record, check_amounts, encode, run
from tools.dataset_generators.scene_canvas import CLASSES
from tools.dataset_generators.scenes import GENERATOR_VERSION, Scene, check_size, draw_scene

TRAIN_CITIES = 'ashford', 'birkstadt', 'corvale', 'dunmere'
VAL_CITIES = 'elmburg', 'fernwick'

ADE20K_INDEX = {
    'road': 7,
    'sidewalk': 12,
    'building': 2,
    'wall': 1,
    'fence': 33,
    'pole': 94,
    'traffic light': 137,
    'traffic sign': 44,
    'vegetation': 5,
    'terrain': 10,
    'sky': 3,
    'person': 13,
    'rider': 13,
    'car': 21,
    'truck': 84,
    'bus': 81,
    'train': 0,
    'motorcycle': 117,
    'bicycle': 128,
}
"""Our class to ADE20K's label: 1 to 150, or 0 where ADE20K has no such class."""


@dataclass(frozen=True)
class _Job:
    """One scene to draw and the two files to write; `labels` maps train ids to stored labels."""

    seed: tuple[int, int, int]
    size: tuple[int, int]
    image: Path
    annotation: Path
    labels: tuple[int, ...] | None = None


def write_cityscapes(
    root: str | os.PathLike[str],
    *,
    train: int,
    val: int,
    size: tuple[int, int] = (512, 1024),
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> None:
    """Writes scenes as Cityscapes does: `leftImg8bit` and `gtFine` with train ids.

    The files depend on `size` and `seed` alone, not on `workers`. A call that was interrupted is
    continued by the same call; a complete folder is left as it is. With more than one worker the
    calling script needs the usual `if __name__ == '__main__':`.

    Args:
        root: The folder to fill; made if it is missing.
        train: Number of training images.
        val: Number of validation images.
        size: Height and width in pixels, from 64 x 128 to 1024 x 2048.
        seed: A whole number, not below 0.
        workers: Number of processes that draw.
        progress: Whether to show a progress bar.

    Raises:
        SegformerPlusPlusError: For a value that is not allowed, or a folder that holds other data.
    """
    _write(root, 'cityscapes', _cityscapes_files, train, val, size, seed, workers, progress)


def write_ade20k(
    root: str | os.PathLike[str],
    *,
    train: int,
    val: int,
    size: tuple[int, int] = (512, 1024),
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> None:
    """Writes the same scenes as ADE20K does: `images` and `annotations` with labels 0 to 150.

    Label 0 is "none of the 150 classes": trams and ignored pixels. Arguments, errors and behaviour
    are those of `write_cityscapes`.
    """
    _write(root, 'ade20k', _ade20k_files, train, val, size, seed, workers, progress)


def _cityscapes_files(root: Path, split: str, index: int) -> tuple[Path, Path]:
    cities = TRAIN_CITIES if split == 'train' else VAL_CITIES
    city, sequence = cities[index % len(cities)], index // len(cities)
    stem = f'{city}_{sequence:06d}_000019'
    return (
        root / 'leftImg8bit' / split / city / f'{stem}_leftImg8bit.png',
        root / 'gtFine' / split / city / f'{stem}_gtFine_labelTrainIds.png',
    )


def _ade20k_files(root: Path, split: str, index: int) -> tuple[Path, Path]:
    folder = 'training' if split == 'train' else 'validation'
    stem = f'ADE_{split}_{index + 1:08d}'
    return (
        root / 'images' / folder / f'{stem}.jpg',
        root / 'annotations' / folder / f'{stem}.png',
    )


_IMAGE_FOLDER = {'cityscapes': 'leftImg8bit', 'ade20k': 'images'}


def _write(
    root: str | os.PathLike[str],
    layout: str,
    files: Callable[[Path, str, int], tuple[Path, Path]],
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
    record = Record.of_images(folder, 'scenes', layout, size, seed, amounts, GENERATOR_VERSION)
    record.claim([_IMAGE_FOLDER[layout]])

    labels = None
    if layout == 'ade20k':
        labels = tuple(ADE20K_INDEX[name] for name in CLASSES) + (0,) * (256 - len(CLASSES))
    jobs = []
    for number, (split, count) in enumerate(amounts.items()):
        for index in range(count):
            image, annotation = files(folder, split, index)
            if not (image.exists() and annotation.exists()):
                scene_seed = int(seed), number, index
                jobs.append(_Job(scene_seed, (height, width), image, annotation, labels))
    for parent in {path.parent for job in jobs for path in (job.image, job.annotation)}:
        parent.mkdir(parents=True, exist_ok=True)
    done = run(_draw, jobs, min(workers, len(jobs)))
    for _ in track(done, 'Drawing scenes', len(jobs), disable=not (progress and jobs)):
        pass
    record.save(complete=True)


def _draw(job: _Job) -> None:
    scene: Scene = draw_scene(job.seed, job.size)
    labels = scene.labels
    if job.labels is not None:
        labels = np.asarray(job.labels, np.uint8)[labels]
    parameters = FASTEST_PNG if job.image.suffix == '.png' else JPEG
    replace(job.image, encode(scene.image[..., ::-1], job.image.suffix, parameters))
    replace(job.annotation, encode(labels, '.png', FASTEST_PNG))
