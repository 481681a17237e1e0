"""Finds what to predict on: files, folders, videos, arrays and PIL images become pictures."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.logging import print_log
from PIL import Image

from ..errors import SegformerPlusPlusError
from .reader import Reader
from .video import is_cut_off

IMAGE_SUFFIXES = tuple(
    '.avif .bmp .gif .jp2 .jpeg .jpg .pbm .pgm .png .ppm .tif .tiff .webp'.split()
)
"""Files that folders are searched for: images."""
VIDEO_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.webm')
"""Files that folders are searched for: videos."""
_NAMED = 5  # files of a kind that are named
_MOST_FRAMES = 10**7  # a container that says more does not know

Source = str | os.PathLike[str] | bytes | np.ndarray | Image.Image
"""One image, also as the bytes of its file, or the path of an image, a folder or a video."""


@dataclass(frozen=True)
class Picture:
    """Stands for one image, which is read only when it is needed.

    Attributes:
        name: relative path of a file, 'FILE/000012' for a frame of a video, 'array-0', 'image-0',
            'bytes-0'.
        load: reads the image (H, W, 3) uint8 BGR, see ``reader.Reader``.
        path: the file; None for other inputs, and for the frames of a video.
        video: the file that a frame belongs to.
    """

    name: str
    load: Callable[[], np.ndarray]
    path: Path | None = None
    video: Path | None = None


def find_pictures(
    inputs: Source | Sequence[Source], any_size: bool = False, reader: Reader | None = None
) -> Iterator[Picture]:
    """Yields all pictures of one or several inputs in their order; those of a folder by name.

    Folders are searched to any depth for ``IMAGE_SUFFIXES`` and ``VIDEO_SUFFIXES`` in any case;
    what else there is, is counted in the log. A file that is itself an input is a video by its
    suffix, else an image. Bytes are those of an image file. Arrays are (H, W, 3) uint8 in OpenCV's
    order BGR, or (H, W) grey; PIL images may have any mode. Nothing is decoded yet, except videos,
    frame by frame: for a video that cannot be opened, or is cut off, the ``load`` of a last picture
    raises.

    Args:
        inputs: an input, or a list of them.
        any_size: read also files with more pixels than Pillow takes for an attack.
        reader: how images are read; None reads them as without a config.

    Raises:
        SegformerPlusPlusError: a missing path, an empty folder, another kind of input.
    """
    reader = reader or Reader()
    for name, source in _find_sources(inputs, say=True):  # all, before hours go to the first ones
        if isinstance(source, np.ndarray):
            yield Picture(name, partial(reader.array, source, name))
        elif isinstance(source, Image.Image):
            yield Picture(name, partial(reader.picture, source, name))
        elif isinstance(source, bytes):
            yield Picture(name, partial(reader.content, source, name, any_size))
        elif _is_video(source):
            yield from _frames(source, name, reader)
        else:
            yield Picture(name, partial(reader.file, source, any_size), path=source)


def count_pictures(inputs: Source | Sequence[Source]) -> int | None:
    """Counts the pictures, for a progress bar; returns None where a video does not tell."""
    total = 0
    for _, source in _find_sources(inputs):
        amount = mmcv.VideoReader(str(source)).frame_cnt if _is_video(source) else 1
        if not 0 < amount < _MOST_FRAMES:
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
    return isinstance(inputs, bytes | np.ndarray | Image.Image)


def _find_sources(inputs: Any, say: bool = False) -> list[tuple[str, Any]]:
    """Lists images and videos with their names, those in folders included; logs the others."""
    found: list[tuple[str, Any]] = []
    for index, source in enumerate(inputs if isinstance(inputs, list | tuple) else [inputs]):
        if isinstance(source, str | os.PathLike):
            place = os.fspath(source)
            if not place or '://' in place:  # '' would be the folder we are in
                raise SegformerPlusPlusError(
                    f'input {source!r} is no path of an image, folder or video'
                )
            found += _find_files(Path(source), say)
        elif isinstance(source, np.ndarray):
            found.append((f'array-{index}', source))
        elif isinstance(source, Image.Image):
            found.append((f'image-{index}', source))
        elif isinstance(source, bytes):
            found.append((f'bytes-{index}', source))
        else:
            raise SegformerPlusPlusError(
                f'input {index} is a {type(source).__name__}; give a path, the bytes of an image '
                'file, an array (H, W, 3) of uint8 in BGR, or a PIL image'
            )
    return found


def _find_files(path: Path, say: bool) -> list[tuple[str, Path]]:
    if not path.exists():
        link = ' (a broken link)' if path.is_symlink() else ''
        raise SegformerPlusPlusError(f'input not found: {path}{link}')
    if not path.is_dir():
        return [(path.name, path)]
    files: list[Path] = []
    others: dict[str, list[str]] = defaultdict(list)
    denied = others['folder that cannot be listed']
    for place, folders, names in os.walk(path, onerror=lambda error: denied.append(str(error))):
        for file in (Path(place, name) for name in folders + names):
            why = why_skipped(file)
            if why:
                others[why].append(file.relative_to(path).as_posix())
            elif file.is_file():
                files.append(file)
    skipped = ', '.join(_few(why, sorted(names)) for why, names in sorted(others.items()) if names)
    if not files:
        known = ' '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        skipped = f'; it holds {skipped}' if skipped else ''
        raise SegformerPlusPlusError(f'folder {path} holds no image or video ({known}){skipped}')
    if say and skipped:
        print_log(f'folder {path}: skipped {skipped}', logger='current', level=logging.WARNING)
    return [(file.relative_to(path).as_posix(), file) for file in sorted(files)]


def why_skipped(file: Path) -> str:
    """Says why what a folder holds is no picture to read; nothing of a picture, or of a folder."""
    known = file.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    if file.is_dir():
        link = 'link to a folder' if file.is_symlink() else ''
        return 'folder named like a file' if known else link
    if not file.exists():
        return 'broken link'
    if file.name.startswith('.'):
        return 'hidden file'
    if not known:
        return file.suffix.lower() or 'file without a suffix'
    return '' if file.is_file() else 'pipe or device'


def _few(why: str, names: Sequence[str]) -> str:
    more = f', and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    return f'{len(names)} {why} ({", ".join(names[:_NAMED])}{more})'


def _is_video(source: Any) -> bool:
    return isinstance(source, Path) and source.suffix.lower() in VIDEO_SUFFIXES


def _frames(path: Path, name: str, reader: Reader) -> Iterator[Picture]:
    """Yields the frames up to the end of the stream: a container's own count is a guess."""

    def fail() -> np.ndarray:
        reason = f'ends after {index} frames: the file is cut off' if index else 'cannot be read'
        raise SegformerPlusPlusError(f'video {path} {reason}')

    video = mmcv.VideoReader(str(path))
    index = 0
    while (frame := video.vcap.read()[1]) is not None:  # the reader's own read() seeks by guesses
        place = f'{name}/{index:06d}'
        yield Picture(place, partial(reader.array, frame, place), video=path)
        index += 1
    if index == 0 or is_cut_off(path):
        yield Picture(f'{name}/{index:06d}', fail, video=path)
