"""Writes synthetic scenes to disk as Cityscapes or ADE20K lay out their files."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import track

from segformer_plusplus.errors import SegformerPlusPlusError

from .scene_canvas import CLASSES
from .scenes import GENERATOR_VERSION, Scene, check_size, draw_scene

RECORD = 'scenes.json'
"""Names what a folder holds, so that a second call continues it or refuses to mix two sets."""

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

_FASTEST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 92]


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
    _check_whole('train', train, 0)
    _check_whole('val', val, 0)
    _check_whole('seed', seed, 0)
    _check_whole('workers', workers, 1)
    folder = Path(root)
    height, width = (int(n) for n in size)
    record = {
        'layout': layout,
        'size': [height, width],
        'seed': int(seed),
        'train': int(train),
        'val': int(val),
        'generator_version': GENERATOR_VERSION,
    }
    _claim(folder, record)

    labels = None
    if layout == 'ade20k':
        labels = tuple(ADE20K_INDEX[name] for name in CLASSES) + (0,) * (256 - len(CLASSES))
    jobs = []
    for number, (split, count) in enumerate((('train', train), ('val', val))):
        for index in range(count):
            image, annotation = files(folder, split, index)
            if not (image.exists() and annotation.exists()):
                scene_seed = int(seed), number, index
                jobs.append(_Job(scene_seed, (height, width), image, annotation, labels))
    for parent in {path.parent for job in jobs for path in (job.image, job.annotation)}:
        parent.mkdir(parents=True, exist_ok=True)
    done = _run(jobs, min(workers, len(jobs)))
    for _ in track(done, 'Drawing scenes', len(jobs), disable=not (progress and jobs)):
        pass
    _save_record(folder, record, complete=True)


def _check_whole(name: str, value: int, low: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low:
        raise SegformerPlusPlusError(
            f'{name}={value!r} is not allowed: a whole number, {low} or more'
        )


def _claim(folder: Path, asked: dict[str, Any]) -> None:
    """Makes sure that `folder` is ours to fill, and says in it what it will hold."""
    path = folder / RECORD
    if path.exists():
        try:
            held = json.loads(path.read_text(encoding='utf-8'))
            held.pop('complete', None)
        except (ValueError, AttributeError):
            raise SegformerPlusPlusError(
                f'{path} cannot be read as JSON: name another folder, or remove this one'
            ) from None
        if held != asked:
            raise SegformerPlusPlusError(
                f'{folder} holds other scenes ({_describe(held)}) than asked for '
                f'({_describe(asked)}): name another folder, or remove this one'
            )
        return
    images = folder / _IMAGE_FOLDER[asked['layout']]
    if images.exists():
        raise SegformerPlusPlusError(
            f'{images} exists without {RECORD} beside it, so it is not ours to add to: '
            f'name another folder for {_describe(asked)}'
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise SegformerPlusPlusError(f'{folder} is not a folder: name another one') from None
    _save_record(folder, asked, complete=False)


def _describe(record: dict[str, Any]) -> str:
    return ', '.join(f'{key}={value}' for key, value in record.items())


def _save_record(folder: Path, record: dict[str, Any], *, complete: bool) -> None:
    text = json.dumps({**record, 'complete': complete}, indent=2) + '\n'
    path = folder / RECORD
    if not path.exists() or path.read_text(encoding='utf-8') != text:
        _replace(path, text.encode())


def _run(jobs: list[_Job], workers: int) -> Iterator[None]:
    """Works through the jobs in any order; yields after each."""
    if workers <= 1:
        yield from map(_draw, jobs)
        return
    context = multiprocessing.get_context('spawn')
    # One core a process: OpenCV would otherwise start as many threads in each as there are cores.
    with ProcessPoolExecutor(workers, context, cv2.setNumThreads, (1,)) as pool:
        pending = [pool.submit(_draw, job) for job in jobs]
        try:
            for future in as_completed(pending):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _draw(job: _Job) -> None:
    scene: Scene = draw_scene(job.seed, job.size)
    labels = scene.labels
    if job.labels is not None:
        labels = np.asarray(job.labels, np.uint8)[labels]
    parameters = _FASTEST_PNG if job.image.suffix == '.png' else _JPEG
    _replace(job.image, _encode(scene.image[..., ::-1], job.image.suffix, parameters))
    _replace(job.annotation, _encode(labels, '.png', _FASTEST_PNG))


def _encode(pixels: np.ndarray, suffix: str, parameters: list[int]) -> bytes:
    _, encoded = cv2.imencode(suffix, np.ascontiguousarray(pixels), parameters)
    return encoded.tobytes()


def _replace(path: Path, data: bytes) -> None:
    """Writes beside `path` and renames, so that a file that is there is always whole."""
    beside = path.with_name(f'.{path.name}.{os.getpid()}')
    beside.write_bytes(data)
    os.replace(beside, path)
