"""Loads images for every OpenMMLab toolbox, and names a file that cannot be read."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS
from torch.utils.data import get_worker_info

from ..errors import SegformerPlusPlusError

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


@TRANSFORMS.register_module(force=True)
class CheckedLoadImageFromFile(LoadImageFromFile):
    """Is mmcv's ``LoadImageFromFile``, but fails on a damaged file, and says which.

    It decodes with Pillow by default: OpenCV fills the rest of a truncated image with grey.

    Args:
        imdecode_backend: as in mmcv.
        on_error: 'raise', or in training 'skip': another sample takes the place of a damaged one.
        max_skipped: so many damaged files are left out, one more is an error.
        **kwargs: as in mmcv.

    Raises:
        SegformerPlusPlusError: the file is missing, is no image, or ends too early.
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

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Reads ``results['img_path']`` into ``results['img']``, (H, W, 3) uint8 BGR."""
        return self.skips(lambda: self._load(results))

    def _load(self, results: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return super().transform(results)
        except (OSError, SyntaxError, ValueError, AssertionError) as error:
            raise unreadable('image', results['img_path'], error) from error


def unreadable(kind: str, path: str, error: BaseException) -> SegformerPlusPlusError:
    """Returns the error for a file that cannot be decoded; ``kind`` is 'image' or 'label map'."""
    reason = ' '.join(str(error).split()) or type(error).__name__
    return SegformerPlusPlusError(f'{kind} {path} cannot be read: {reason}')


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
