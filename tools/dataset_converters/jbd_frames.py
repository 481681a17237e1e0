"""Decodes, links and copies the frames of the Jump-Broadcast dataset, and writes its json files."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.files import replace
from tools.dataset_converters.jbd_tables import Place


def decode_frame(path: Path, place: Place) -> tuple[int, int]:
    """Decodes a frame completely.

    Args:
        path: The frame's file.
        place: The row that names it, for the error.

    Returns:
        Width and height in pixels, as it is looked at (EXIF).

    Raises:
        SegformerPlusPlusError: The file is missing, is no image, or ends too early.
    """
    try:
        with Image.open(path) as image:
            # as training loads it: turned to how it is to be looked at
            return ImageOps.exif_transpose(image).size
    except FileNotFoundError:
        raise place.error(
            f'frame {path} is missing, add it, remove the row, or name the folder of the events '
            f'with --frames'
        ) from None
    except Image.UnidentifiedImageError:
        raise place.error(f'frame {path} is no image, replace it or remove the row') from None
    except Exception as error:  # a decoder meets damaged data with all kinds of errors
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or ' '.join(str(error).split()) or type(error).__name__
        raise place.error(
            f'frame {path} cannot be decoded ({reason}), replace it or remove the row'
        ) from error


def write_frame(source: Path, target: Path, frames_as: str) -> None:
    """Makes `target` a link to `source` ('link') or a copy of it ('copy'), unless it is one.

    A file or link at the place is replaced, never written to.

    Raises:
        SegformerPlusPlusError: The file cannot be written, or the file system refuses links.
    """
    try:
        if _is_written(source, target, frames_as):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if frames_as == 'copy':
            replace(target, source.read_bytes())
        else:
            _replace_with_link(target, source)
    except OSError as error:
        raise _unwritable(target, error) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a json file whole, unless it holds the same bytes.

    Raises:
        SegformerPlusPlusError: The file cannot be written.
    """
    data = (json.dumps(content, allow_nan=False) + '\n').encode()
    try:
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, data)
    except OSError as error:
        raise _unwritable(path, error) from error


def _is_written(source: Path, target: Path, frames_as: str) -> bool:
    if target.is_symlink():
        return frames_as == 'link' and os.readlink(target) == str(source)
    if not target.exists():
        return False
    # The raw frame may be a link to this very file: replacing it would lose the frame.
    if target.samefile(source):
        return True
    return frames_as == 'copy' and target.read_bytes() == source.read_bytes()


def _replace_with_link(target: Path, source: Path) -> None:
    beside = target.with_name(f'.{target.name}.{os.getpid()}.link')
    beside.unlink(missing_ok=True)
    try:
        os.symlink(source, beside)
    except OSError as error:
        raise SegformerPlusPlusError(
            f'{target}: cannot be made a link ({error.strerror}), use --frames-as copy where the '
            f'file system has no links'
        ) from error
    try:
        os.replace(beside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _unwritable(path: Path, error: OSError) -> SegformerPlusPlusError:
    return SegformerPlusPlusError(
        f'{path}: cannot be written ({error.strerror}), remove what is in the way or make room'
    )
