"""Opens one image and its label map and says what is wrong with them: the work of a process."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from tools.dataset_files import reason

_ORIENTATION, _LYING = 0x0112, range(5, 9)
"""The EXIF tag that turns an image, and its values that swap width and height."""


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
        digest: Whether the image's SHA-256 is wanted.
    """

    image: str
    label: str | None
    rule: LabelRule
    digest: bool


@dataclass
class FileResult:
    """Holds what became of a job.

    Attributes:
        size: Width and height of the image in pixels as training sees it (EXIF); None if it
            cannot be decoded.
        digest: SHA-256 of the image's file, where it was wanted.
        found: Pairs of a check and a detail; a check that starts with 'label' is about the label.
    """

    size: tuple[int, int] | None = None
    digest: bytes | None = None
    found: list[tuple[str, str]] = field(default_factory=list)


def open_files(job: FileJob) -> FileResult:
    """Decodes the files of a job completely. Never fails: what goes wrong is in the result."""
    result = FileResult()
    image = _decode(job.image, 'image', result, job.digest)
    if image is not None:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION) in _LYING
        result.size = (height, width) if turned else (width, height)
    if job.label is not None:
        label = _decode(job.label, 'label', result, digest=False)
        if label is not None:
            _check_label(label, job.rule, result)
    return result


def _decode(path: str, kind: str, result: FileResult, digest: bool) -> Image.Image | None:
    try:
        data = Path(path).read_bytes()
        image = Image.open(BytesIO(data))
        image.load()
    except FileNotFoundError:
        result.found.append((f'{kind}_missing', _hint(path)))
        return None
    except Exception as error:  # a decoder meets damaged data with all kinds of errors
        why = getattr(error, 'strerror', None) or reason(error)
        if isinstance(error, Image.UnidentifiedImageError):
            why = 'it is no image' if data else 'the file is empty'
        result.found.append((f'{kind}_unreadable', why))
        return None
    if digest:
        result.digest = hashlib.sha256(data).digest()
    return image


def _hint(path: str) -> str:
    """Says what most often is wrong with a missing Cityscapes label: it was not converted."""
    source = path.replace('_labelTrainIds.png', '_labelIds.png')
    if source != path and Path(source).exists():
        return 'tools/dataset_converters/cityscapes.py makes it from _labelIds.png'
    return ''


def _check_label(label: Image.Image, rule: LabelRule, result: FileResult) -> None:
    if result.size is not None and label.size != result.size:
        sizes = 'image {} x {}, label {} x {}'.format(*result.size, *label.size)
        result.found.append(('label_size', sizes))
    if label.mode not in ('1', 'L', 'P'):
        result.found.append(('label_format', f'its pixels are of kind {label.mode!r}'))
        return
    amounts = np.bincount(np.asarray(label).astype(np.uint8).ravel(), minlength=256)
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
