"""What there is to predict on: files, folders, videos, arrays and PIL images, one picture each."""

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
_STRIP = 256  # rows that are converted at once
VIDEO_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.webm')

Source = str | os.PathLike[str] | np.ndarray | Image.Image
"""One image, or the path of an image, of a folder or of a video."""


@dataclass(frozen=True)
class Picture:
    """One image, which is read only when it is needed.

    Attributes:
        name: relative path of a file, 'FILE/000012' for a frame of a video, 'array-0', 'image-0'.
        load: reads it: (H, W, 3) uint8 BGR.
        path: of the file; None where there is none, and for the frames of a video.
        video: the file that it is a frame of.
    """

    name: str
    load: Callable[[], np.ndarray]
    path: Path | None = None
    video: Path | None = None


def find_pictures(inputs: Source | Sequence[Source], any_size: bool = False) -> Iterator[Picture]:
    """All pictures of one input or of several, in their order; a folder's by name.

    Folders are searched to any depth for ``IMAGE_SUFFIXES`` and ``VIDEO_SUFFIXES``, whatever the
    case; other files in them are passed over. A file that is named itself is taken for a video by
    its suffix, and else for an image. Arrays are (H, W, 3) uint8 in OpenCV's order BGR, or (H, W)
    grey; PIL images may have any mode. Nothing is decoded here, except videos, which are read
    frame by frame: one that cannot be opened, or that ends early, gives a last picture whose
    ``load`` raises.

    Args:
        inputs: one of these, or a list.
        any_size: read also files with more pixels than Pillow takes for an attack.

    Raises:
        SegformerPlusPlusError: a path that is not there, an empty folder, another kind of input.
    """
    # what is not there is said before hours are spent on what is
    groups = [_checked(index, each, any_size) for index, each in enumerate(_as_list(inputs))]
    for group in groups:
        for each in group:
            yield from each() if callable(each) else [each]


def is_one_image(inputs: Any) -> bool:
    """Whether these are no list, no folder and no video."""
    if isinstance(inputs, str | os.PathLike):
        path = Path(inputs)
        return not path.is_dir() and path.suffix.lower() not in VIDEO_SUFFIXES
    return isinstance(inputs, np.ndarray | Image.Image)


def count_pictures(inputs: Source | Sequence[Source]) -> int | None:
    """How many there are, for a progress bar; None where a video does not say."""
    total = 0
    for each in _as_list(inputs):
        for path in _files(Path(each)) if isinstance(each, str | os.PathLike) else [None]:
            if path is None or path.suffix.lower() not in VIDEO_SUFFIXES:
                total += 1
                continue
            frames = len(mmcv.VideoReader(str(path)))
            if frames <= 0:
                return None
            total += frames
    return total


def _as_list(inputs: Any) -> list[Any]:
    return list(inputs) if isinstance(inputs, list | tuple) else [inputs]


Group = list[Picture | Callable[[], Iterator[Picture]]]


def _checked(index: int, source: Any, any_size: bool) -> Group:
    if isinstance(source, np.ndarray):
        return [Picture(f'array-{index}', lambda: _check_array(source, index))]
    if isinstance(source, Image.Image):
        return [Picture(f'image-{index}', lambda: _bgr(source))]
    if isinstance(source, str | os.PathLike):
        return _of_path(Path(source), any_size)
    raise SegformerPlusPlusError(
        f'input {index} is a {type(source).__name__}; give a path, an array (H, W, 3) of uint8 in '
        'BGR, or a PIL image'
    )


def _of_path(path: Path, any_size: bool) -> Group:
    if not path.exists():
        raise SegformerPlusPlusError(f'input not found: {path}')
    files = _files(path)
    if not files:
        known = ' '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        raise SegformerPlusPlusError(f'folder {path} holds no image or video ({known})')
    return [_of_file(file, path, any_size) for file in files]


def _files(path: Path) -> list[Path]:
    """The path itself, or the images and videos in a folder."""
    if not path.is_dir():
        return [path]
    known = {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES}
    return sorted(
        file
        for file in path.rglob('*')
        if file.suffix.lower() in known and file.is_file() and not file.name.startswith('.')
    )


def _of_file(file: Path, given: Path, any_size: bool) -> Picture | Callable[[], Iterator[Picture]]:
    name = file.name if file == given else file.relative_to(given).as_posix()
    if file.suffix.lower() in VIDEO_SUFFIXES:
        return lambda: _frames(file, name)
    return Picture(name, lambda: load_image(file, any_size), path=file)


def load_image(path: Path, any_size: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 BGR, turned as its EXIF data say.

    Raises:
        SegformerPlusPlusError: it is no image, damaged, or larger than Pillow reads unasked.
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
    """A view of RGB, filled strip by strip: every other way holds the image several times."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            width, height = image.size
            pixels = np.empty((height, width, 3), np.uint8)
            for top in range(0, height, _STRIP):
                bottom = min(top + _STRIP, height)
                strip = image.crop((0, top, width, bottom))
                pixels[top:bottom] = np.asarray(strip.convert('RGB'))
            return pixels[..., ::-1]
    except (OSError, SyntaxError, ValueError) as error:
        raise unreadable('image', str(path), error) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _frames(path: Path, name: str) -> Iterator[Picture]:
    video = mmcv.VideoReader(str(path))
    expected, index = len(video), 0
    if video.opened:
        while (frame := video.read()) is not None:
            yield Picture(f'{name}/{index:06d}', partial(np.asarray, frame), video=path)
            index += 1
    if index == 0 or index < expected:
        message = f'video {path} cannot be read'
        if index:
            message = f'video {path} ends after {index} of {expected} frames'
        yield Picture(f'{name}/{index:06d}', lambda: _fail(message), video=path)


def _fail(message: str) -> np.ndarray:
    raise SegformerPlusPlusError(message)


def _check_array(array: np.ndarray, index: int) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None].repeat(3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise SegformerPlusPlusError(
            f'array {index} is {array.dtype} of shape {array.shape}; expected uint8 (H, W, 3) in '
            "OpenCV's order BGR, or (H, W)"
        )
    return array


def _bgr(image: Image.Image) -> np.ndarray:
    try:
        return np.ascontiguousarray(np.asarray(image.convert('RGB'))[..., ::-1])
    except (OSError, SyntaxError, ValueError) as error:
        raise unreadable('image', str(getattr(image, 'filename', '')), error) from error
