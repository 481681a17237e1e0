"""Finds what to predict on: files, folders, videos, arrays and PIL images become pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from PIL import Image, ImageOps

from ..errors import SegformerPlusPlusError
from ..loading.images import CheckedLoadImageFromFile, unreadable

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
VIDEO_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.webm')
_ROWS = 256  # that are converted at a time

Source = str | os.PathLike[str] | np.ndarray | Image.Image
"""One image, or the path of an image, a folder or a video."""


@dataclass(frozen=True)
class Picture:
    """Stands for one image, which is read only when it is needed.

    Attributes:
        name: relative path of a file, 'FILE/000012' for a frame of a video, 'array-0', 'image-0'.
        load: reads the image (H, W, 3) uint8 BGR.
        path: the file; None for other inputs, and for the frames of a video.
        video: the file that a frame belongs to.
    """

    name: str
    load: Callable[[], np.ndarray]
    path: Path | None = None
    video: Path | None = None


def find_pictures(inputs: Source | Sequence[Source], any_size: bool = False) -> Iterator[Picture]:
    """Yields all pictures of one or several inputs in their order; those of a folder by name.

    Folders are searched to any depth for ``IMAGE_SUFFIXES`` and ``VIDEO_SUFFIXES`` in any case;
    other files are skipped. A file that is itself an input is a video by its suffix, else an
    image. Arrays are (H, W, 3) uint8 in OpenCV's order BGR, or (H, W) grey; PIL images may have
    any mode. Nothing is decoded yet, except videos, frame by frame: for a video that cannot be
    opened, or ends early, the ``load`` of a last picture raises.

    Args:
        inputs: an input, or a list of them.
        any_size: read also files with more pixels than Pillow takes for an attack.

    Raises:
        SegformerPlusPlusError: a missing path, an empty folder, another kind of input.
    """
    for name, source in _find_sources(inputs):  # all, before hours are spent on the first ones
        if isinstance(source, np.ndarray):
            yield Picture(name, partial(_check_array, source, name))
        elif isinstance(source, Image.Image):
            yield Picture(name, partial(_to_bgr, source))
        elif _is_video(source):
            yield from _frames(source, name)
        else:
            yield Picture(name, partial(load_image, source, any_size), path=source)


def count_pictures(inputs: Source | Sequence[Source]) -> int | None:
    """Counts the pictures, for a progress bar; returns None where a video does not tell."""
    total = 0
    for _, source in _find_sources(inputs):
        amount = len(mmcv.VideoReader(str(source))) if _is_video(source) else 1
        if amount <= 0:
            return None
        total += amount
    return total


def list_names(inputs: Source | Sequence[Source]) -> list[tuple[str, bool]]:
    """Lists the names of images and videos, and whether each is a video, whose frames go on."""
    return [(name, _is_video(source)) for name, source in _find_sources(inputs)]


def is_one_image(inputs: Any) -> bool:
    """Tells whether an input is no list, no folder and no video."""
    if isinstance(inputs, str | os.PathLike):
        return not Path(inputs).is_dir() and not _is_video(Path(inputs))
    return isinstance(inputs, np.ndarray | Image.Image)


def _find_sources(inputs: Any) -> list[tuple[str, Any]]:
    """Lists images and videos with their names, those in folders included."""
    found: list[tuple[str, Any]] = []
    for index, source in enumerate(inputs if isinstance(inputs, list | tuple) else [inputs]):
        if isinstance(source, str | os.PathLike):
            found += _find_files(Path(source))
        elif isinstance(source, np.ndarray):
            found.append((f'array-{index}', source))
        elif isinstance(source, Image.Image):
            found.append((f'image-{index}', source))
        else:
            raise SegformerPlusPlusError(
                f'input {index} is a {type(source).__name__}; give a path, an array (H, W, 3) of '
                'uint8 in BGR, or a PIL image'
            )
    return found


def _find_files(path: Path) -> list[tuple[str, Path]]:
    if not path.exists():
        raise SegformerPlusPlusError(f'input not found: {path}')
    if not path.is_dir():
        return [(path.name, path)]
    known = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    files = sorted(
        file
        for file in path.rglob('*')
        if file.suffix.lower() in known and file.is_file() and not file.name.startswith('.')
    )
    if not files:
        raise SegformerPlusPlusError(f'folder {path} holds no image or video ({" ".join(known)})')
    return [(file.relative_to(path).as_posix(), file) for file in files]


def _is_video(source: Any) -> bool:
    return isinstance(source, Path) and source.suffix.lower() in VIDEO_SUFFIXES


def load_image(path: Path, any_size: bool = False) -> np.ndarray:
    """Reads an image (H, W, 3) uint8 BGR and turns it as its EXIF data say.

    Raises:
        SegformerPlusPlusError: no image, a damaged one, or (unless ``any_size``) one with more
            pixels than Pillow takes for an attack.
    """
    if any_size:
        return _load_large_image(path)
    try:
        results = CheckedLoadImageFromFile().transform({'img_path': str(path)})
    except Image.DecompressionBombError as error:
        raise SegformerPlusPlusError(
            f'image {path} has more pixels than are read at once ({error}); predict it in tiles'
        ) from error
    assert results is not None
    image: np.ndarray = results['img']
    return image


def _load_large_image(path: Path) -> np.ndarray:
    """Fills an array strip by strip: other ways hold the image in memory several times."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            width, height = image.size
            pixels = np.empty((height, width, 3), np.uint8)
            for top in range(0, height, _ROWS):
                bottom = min(top + _ROWS, height)
                strip = image.crop((0, top, width, bottom))
                pixels[top:bottom] = np.asarray(strip.convert('RGB'))
            return pixels[..., ::-1]
    except (OSError, SyntaxError, ValueError) as error:
        raise unreadable('image', str(path), error) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _frames(path: Path, name: str) -> Iterator[Picture]:
    def fail() -> np.ndarray:
        reason = f'ends after {index} of {expected} frames' if index else 'cannot be read'
        raise SegformerPlusPlusError(f'video {path} {reason}')

    video = mmcv.VideoReader(str(path))
    expected, index = len(video), 0
    while video.opened and (frame := video.read()) is not None:
        yield Picture(f'{name}/{index:06d}', partial(np.asarray, frame), video=path)
        index += 1
    if index == 0 or index < expected:
        yield Picture(f'{name}/{index:06d}', fail, video=path)


def _check_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None].repeat(3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise SegformerPlusPlusError(
            f'{name} is {array.dtype} of shape {array.shape}; expected uint8 (H, W, 3) in '
            "OpenCV's order BGR, or (H, W)"
        )
    return array


def _to_bgr(image: Image.Image) -> np.ndarray:
    try:
        return np.ascontiguousarray(np.asarray(image.convert('RGB'))[..., ::-1])
    except (OSError, SyntaxError, ValueError) as error:
        raise unreadable('image', str(getattr(image, 'filename', '')), error) from error
