"""Loads images for every OpenMMLab toolbox, and names a file that cannot be read."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmcv.image.io import _pillow2array
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch.utils.data import get_worker_info

from ..errors import SegformerPlusPlusError

FORMATS = 'JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP', 'GIF', 'PPM', 'MPO', 'AVIF', 'JPEG2000'
"""Pillow's names of those that are opened: others start programs, as PostScript does."""

_SLOTS = 256


class Skips:
    """Counts what a loader has left out, over all workers of a data loader.

    Args:
        on_error: 'raise' fails on a damaged file; 'skip' logs and counts it, and another sample
            takes its place in the batch.
        max_skipped: so many damaged files are left out, one more is an error.

    Raises:
        SegformerPlusPlusError: another ``on_error`` or a ``max_skipped`` below 1.
    """

    def __init__(self, on_error: str, max_skipped: int) -> None:
        if on_error not in ('raise', 'skip'):
            raise SegformerPlusPlusError(f"on_error={on_error!r}: use 'raise' or 'skip'")
        if max_skipped < 1:
            raise SegformerPlusPlusError(f'max_skipped={max_skipped} is less than 1')
        self.active = on_error == 'skip'
        self._max = max_skipped
        # Shared with the workers; each writes into a row of its own, so that none is lost.
        slots = _SLOTS if self.active else 0
        self._counts = torch.zeros(slots, dtype=torch.int64).share_memory_()
        self._files = torch.zeros(slots, max_skipped + 1, dtype=torch.int64).share_memory_()

    @property
    def count(self) -> int:
        """Returns how many samples were left out so far."""
        return int(self._counts.sum())

    @property
    def files(self) -> int:
        """Returns how many different files these samples are."""
        return len(torch.unique(self._files[self._files != 0]))

    def __call__(self, call: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        """Returns the call's result; None, for mmengine "take another sample", if it is left out.

        Raises:
            SegformerPlusPlusError: a damaged file, when none or no more may be left out.
        """
        try:
            return call()
        except SegformerPlusPlusError as error:
            if not self.active:
                raise
            self._enter(str(error))
            return None

    def _enter(self, message: str) -> None:
        worker = get_worker_info()
        slot = 0 if worker is None else 1 + worker.id % (_SLOTS - 1)
        self._counts[slot] += 1
        digest = hashlib.blake2b(message.encode(), digest_size=8).digest()
        key = int.from_bytes(digest, 'big', signed=True) or 1
        row = self._files[slot]
        if (row == key).any():
            return
        row[int((row != 0).sum())] = key
        print_log(f'skipped: {message}', logger='current', level=logging.WARNING)
        if self.files > self._max:
            raise SegformerPlusPlusError(
                f'{message}; more than max_skipped={self._max} files are damaged'
            )


def exif_orientation(picture: Image.Image) -> int:
    """Returns how EXIF data say that a picture lies, from 1 (upright, or they say nothing) to 8."""
    found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return found if found in range(1, 9) else 1


def explain_turn(orientation: int, size: tuple[int, int]) -> str | None:
    """Says why a label map of a turned image may not fit, unless its size tells that it does.

    Args:
        orientation: of the image, see ``exif_orientation``.
        size: width and height of both.
    """
    if orientation == 1 or (orientation > 4 and size[0] != size[1]):
        return None
    return (
        f'EXIF data turn the image (orientation {orientation}), and its size does not tell whether '
        'the label map is turned, too: save the image upright, without EXIF data'
    )


@TRANSFORMS.register_module(force=True)
class CheckedLoadImageFromFile(LoadImageFromFile):
    """Is mmcv's ``LoadImageFromFile``, but fails on a damaged file, and says which.

    It decodes with Pillow by default: OpenCV fills the rest of a truncated image with grey. What
    becomes of each kind of pixels is in docs/data.md; what is dropped is logged once.

    Args:
        imdecode_backend: as in mmcv.
        on_error: 'raise', or in training 'skip': another sample takes the place of a damaged one.
        max_skipped: so many damaged files are left out, one more is an error.
        **kwargs: as in mmcv.

    Raises:
        SegformerPlusPlusError: the file is missing, is no image of ``FORMATS``, ends too early, or
            has numbers that are no colours.
    """

    def __init__(
        self,
        imdecode_backend: str = 'pillow',
        on_error: str = 'raise',
        max_skipped: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(imdecode_backend=imdecode_backend, **kwargs)
        self.skips = Skips(on_error, max_skipped)
        self.said: set[str] = set()  # what was dropped of some image
        self.orientation = 1  # that of the last image, as far as it was turned

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Reads ``results['img_path']`` into ``results['img']``, (H, W, 3) uint8 BGR."""
        return self.skips(lambda: self._load(results))

    def _load(self, results: dict[str, Any]) -> dict[str, Any] | None:
        path, old = results['img_path'], self.file_client_args
        try:
            with reading('image', path):
                client = fileio.FileClient.infer_client(old, path) if old else None
                data = client.get(path) if client else fileio.get(path, self.backend_args)
                image = self.decode(data, path)
        except SegformerPlusPlusError:
            if self.ignore_empty:
                return None
            raise
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        results['exif_orientation'] = self.orientation
        return results

    def decode(self, data: bytes, path: str) -> NDArray[Any]:
        """Turns the bytes of a file into what mmcv's loader gives; raises all kinds of errors."""
        self.orientation = 1
        why: Exception = ValueError(f'{self.imdecode_backend} cannot decode it')
        if self.imdecode_backend in ('pillow', 'cv2'):
            try:
                with open_image(BytesIO(data)) as picture:
                    if self.imdecode_backend == 'pillow':
                        return self.as_array(self.upright(picture, path))
                    self._check(picture, path)
                    # of a PNG, Pillow would decode all pixels to look for EXIF data after them
                    early = picture.format != 'PNG' or 'exif' in picture.info
                    if early and self.color_type in ('color', 'grayscale'):
                        with contextlib.suppress(Exception):  # OpenCV passes over damaged ones
                            self.orientation = exif_orientation(picture)
            except (Image.UnidentifiedImageError, Image.DecompressionBombError) as error:
                if self.imdecode_backend == 'pillow':
                    raise
                why = error  # unless OpenCV can
        with contextlib.suppress(cv2.error):
            image = mmcv.imfrombytes(data, self.color_type, backend=self.imdecode_backend)
            if image is not None:
                return self._cast(image)
        raise why

    def _cast(self, image: NDArray[Any]) -> NDArray[Any]:
        native = image.dtype.newbyteorder('=')  # torch has no other
        return image.astype(np.float32 if self.to_float32 else native, copy=False)

    def upright(self, picture: Image.Image, name: str) -> Image.Image:
        """Turns a picture as its EXIF data and ``color_type`` say, and brings 16 bits to 8.

        Raises:
            SegformerPlusPlusError: its numbers are no colours.
        """
        self._check(picture, name)
        if self.color_type == 'unchanged':
            return picture
        # of 12 bits, Pillow gives the numbers as they are
        bits = 12 if ';12' in str(getattr(picture, 'tile', '')) else 16
        if picture.mode == 'I':
            picture = picture.convert('I;16')
        if not self.color_type.endswith('ignore_orientation'):
            self.orientation = exif_orientation(picture)
            if self.orientation != 1:  # which copies even what lies upright
                picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith('I;16'):
            picture = Image.fromarray((np.asarray(picture) >> bits - 8).astype(np.uint8))
        return picture

    def as_array(self, picture: Image.Image) -> NDArray[Any]:
        """Returns an upright picture, or a part of it, as mmcv does: (H, W, 3) uint8 BGR."""
        turned = self.color_type in ('color', 'grayscale')
        flag = f'{self.color_type}_ignore_orientation' if turned else self.color_type
        return self._cast(_pillow2array(picture, flag))

    def _check(self, picture: Image.Image, name: str) -> None:
        """Refuses what is no colour, and says what is dropped, each once."""
        mode = picture.mode
        if picture.format not in (None, *FORMATS):
            raise Image.UnidentifiedImageError(_not_opened(picture.format))
        if getattr(picture, 'is_animated', False):
            self._say('only the first of its frames or pages is read', name)
        if self.color_type == 'unchanged':
            return
        if mode == 'F' or (mode == 'I' and picture.format not in ('PNG', 'PPM')):
            raise SegformerPlusPlusError(
                f'image {name} has pixels of kind {mode!r}, numbers of which nothing says what is '
                "black or white: convert it to 8 bits, or use color_type='unchanged'"
            )
        if mode == 'I' or ';16' in f'{mode} {getattr(picture, "tile", "")}':
            self._say('the upper 8 of its 16 bits are kept', name)
        if mode in ('LA', 'PA', 'RGBA') or 'transparency' in picture.info:
            self._say('its transparency is dropped', name)

    def _say(self, what: str, name: str) -> None:
        if what not in self.said:
            self.said.add(what)
            print_log(f'image {name}: {what}', logger='current', level=logging.WARNING)


def open_image(source: str | os.PathLike[str] | BytesIO) -> Image.Image:
    """Opens an image as Pillow does, if it is one of ``FORMATS``.

    Raises:
        PIL.UnidentifiedImageError: it is not; says what it is.
        OSError: it cannot be opened.
    """
    Image.init()
    try:
        return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.UnidentifiedImageError as error:
        data = source.getvalue() if isinstance(source, BytesIO) else Path(source).read_bytes()
        raise Image.UnidentifiedImageError(_what_it_is(data[:16])) from error


def check_whole(data: bytes) -> None:
    """Decodes an image of ``FORMATS`` with Pillow, for decoders that fill up what is missing.

    Raises:
        OSError: the file ends too early; a decoder raises other kinds of errors, too.
    """
    with contextlib.suppress(Image.UnidentifiedImageError):
        open_image(BytesIO(data)).load()


def _what_it_is(start: bytes) -> str:
    if not start:
        return 'the file is empty'
    for name, (_, accept) in Image.OPEN.items():
        answer = accept(start.ljust(16, b'\0')) if accept else False
        if answer and name not in FORMATS:
            return _not_opened(name)
        if answer:
            return f'its {name} is damaged, or of a kind that this Pillow does not read'
    return 'it is no image'


def _not_opened(name: str | None) -> str:
    return f'it is {name}, which is not opened; allowed are {", ".join(FORMATS)}'


def unreadable(kind: str, path: object, error: BaseException) -> SegformerPlusPlusError:
    """Returns the error for a file that cannot be decoded; ``kind`` is 'image' or 'label map'."""
    reason = getattr(error, 'strerror', None) or ' '.join(str(error).split())
    return SegformerPlusPlusError(f'{kind} {path} cannot be read: {reason or type(error).__name__}')


@contextlib.contextmanager
def reading(
    kind: str, path: object, errors: tuple[type[Exception], ...] = (Exception,)
) -> Iterator[None]:
    """Names a file that cannot be decoded; decoders raise all kinds of errors when one is damaged.

    Raises:
        SegformerPlusPlusError: see ``unreadable``.
    """
    try:
        yield
    except SegformerPlusPlusError:
        raise
    except Image.DecompressionBombError as error:
        raise SegformerPlusPlusError(
            f'{kind} {path} has more pixels than are read at once ({error}); predict it in tiles'
        ) from error
    except errors as error:
        raise unreadable(kind, path, error) from error


def skipping_steps(dataset: Any) -> Iterator[Any]:
    """Yields the steps with ``on_error='skip'`` in a dataset and in the datasets that it wraps."""
    for part in getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]:
        if part is not None:
            yield from skipping_steps(part)
    for step in getattr(getattr(dataset, 'pipeline', None), 'transforms', None) or []:
        if isinstance(getattr(step, 'skips', None), Skips) and step.skips.active:
            yield step


def refuse_skipping(dataset: Any, key: str) -> None:
    """Refuses ``on_error='skip'`` where the images are scored.

    Args:
        dataset: of a validation or test.
        key: of its data loader in the config.

    Raises:
        SegformerPlusPlusError: names the step.
    """
    step = next(skipping_steps(dataset), None)
    if step is not None:
        raise SegformerPlusPlusError(
            f"{key}: {type(step).__name__} has on_error='skip', which would score other images "
            'than those asked for; it is for training only'
        )
