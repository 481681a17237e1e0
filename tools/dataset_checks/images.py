"""Opens one image and its label map and says what is wrong with them: the work of a process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.loading.images import (
    CheckedLoadImageFromFile,
    check_whole,
    exif_orientation,
    explain_turn,
    open_image,
)
from tools.dataset_files import reason

Decoded = TypeVar('Decoded')


@dataclass(frozen=True)
class LabelRule:
    """Says which numbers a label file may hold.

    Attributes:
        table: (256,) int, what training makes of each number.
        classes: Number of classes.
        ignore: The number for ignored pixels.
    """

    table: np.ndarray
    classes: int
    ignore: int


@dataclass(frozen=True)
class FileJob:
    """Holds one image to open.

    Attributes:
        image: The image file.
        label: The file of its label map, if it has one.
        rule: What the label map may hold.
        digest: Whether the SHA-256 of the image's pixels is wanted.
        loading: How the config loads images: arguments of ``CheckedLoadImageFromFile``; None if
            its loader is none of OpenMMLab's, so that only Pillow's opinion is asked.
    """

    image: str
    label: str | None
    rule: LabelRule
    digest: bool
    loading: Mapping[str, Any] | None


@dataclass
class FileResult:
    """Holds what became of a job.

    Attributes:
        size: Width and height of the image in pixels as training sees it (EXIF); None if it
            cannot be decoded.
        orientation: By which EXIF turned it, from 1 (not at all) to 8.
        digest: SHA-256 of the image's pixels as training sees them, where it was wanted.
        amounts: (256,) int, pixels of each number in the label map, as training takes them; None
            without one of 8 bits.
        found: Pairs of a check and a detail; a check that starts with 'label' is about the label.
    """

    size: tuple[int, int] | None = None
    orientation: int = 1
    digest: bytes | None = None
    amounts: np.ndarray | None = None
    found: list[tuple[str, str]] = field(default_factory=list)


def open_files(job: FileJob) -> FileResult:
    """Decodes the files of a job completely. Never fails: what goes wrong is in the result."""
    result = FileResult()
    pixels = _try(job.image, 'image', result, lambda data: _load(job, data, result))
    if pixels is not None:
        result.size = (pixels.shape[1], pixels.shape[0])
        if job.digest:
            kind = f'{pixels.dtype} {pixels.shape}'.encode()
            result.digest = hashlib.sha256(kind + pixels.tobytes()).digest()
    label = _try(job.label, 'label', result, _decode) if job.label is not None else None
    if label is not None:
        _check_label(label, job.rule, result)
    return result


def _try(
    path: str, kind: str, result: FileResult, decode: Callable[[bytes], Decoded]
) -> Decoded | None:
    try:
        return decode(Path(path).read_bytes())
    except FileNotFoundError:
        result.found.append((f'{kind}_missing', _hint(path)))
    except SegformerPlusPlusError as error:
        result.found.append((f'{kind}_values', reason(error)))
    except Exception as error:  # noqa: BLE001 - a decoder has all kinds for damaged data
        why = getattr(error, 'strerror', None) or reason(error)
        result.found.append((f'{kind}_unreadable', why))
    return None


def _load(job: FileJob, data: bytes, result: FileResult) -> np.ndarray:
    """Does what the config's loader does, and notes what it drops."""
    if job.loading is None:
        image = _decode(data)
        result.orientation = exif_orientation(image)
        return np.asarray(ImageOps.exif_transpose(image))
    loader = CheckedLoadImageFromFile(**job.loading)
    if loader.imdecode_backend != 'pillow':
        check_whole(data)
    pixels = loader.decode(data, job.image)
    result.orientation = loader.orientation
    for what in sorted(loader.said):
        result.found.append(('image_bits' if '16 bits' in what else 'image_part', what))
    return pixels


def _decode(data: bytes) -> Image.Image:
    image = open_image(BytesIO(data))
    image.load()
    return image


def _hint(path: str) -> str:
    """Says what most often is wrong with a missing Cityscapes label: it was not converted."""
    source = path.replace('_labelTrainIds.png', '_labelIds.png')
    if source != path and Path(source).exists():
        return 'tools/dataset_converters/cityscapes.py makes it from _labelIds.png'
    return 'it is a link to nothing' if Path(path).is_symlink() else ''


def _check_label(label: Image.Image, rule: LabelRule, result: FileResult) -> None:
    if result.size is not None and label.size != result.size:
        sizes = 'image {} x {}, label {} x {}'.format(*result.size, *label.size)
        result.found.append(('label_size', sizes))
    elif why := explain_turn(result.orientation, label.size):
        result.found.append(('label_size', why))
    if label.mode not in ('1', 'L', 'P'):
        result.found.append(('label_format', f'its pixels are of kind {label.mode!r}'))
        return
    amounts = np.bincount(np.asarray(label).astype(np.uint8).ravel(), minlength=256)
    result.amounts = np.bincount(rule.table % 256, amounts, minlength=256).astype(np.int64)
    valid, ignored = rule.table < rule.classes, rule.table == rule.ignore
    outside = np.flatnonzero((amounts > 0) & ~valid & ~ignored)
    if len(outside):
        allowed, passed = (_numbers(np.flatnonzero(values)) for values in (valid, ignored))
        detail = f'{_numbers(outside)} in {amounts[outside].sum()} pixel(s), allowed are '
        result.found.append(('label_values', detail + f'{allowed} and {passed} (ignored)'))
    elif not amounts[valid].any():
        result.found.append(('label_empty', f'only {_numbers(np.flatnonzero(amounts))}'))


def _numbers(values: np.ndarray) -> str:
    """Writes sorted whole numbers as people do: '0..18, 255'."""
    runs: list[list[int]] = []
    for value in values.tolist():
        if runs and runs[-1][1] == value - 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ', '.join(str(low) if low == high else f'{low}..{high}' for low, high in runs)
