"""Loads labels, and names the file and the value that cannot be trained on."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import mmengine.fileio as fileio
import numpy as np
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from ..errors import SegformerPlusPlusError
from ..loading.images import Skips, explain_turn, open_image, reading


@TRANSFORMS.register_module(force=True)
class CheckedLoadAnnotations(LoadAnnotations):
    """Is mmseg's ``LoadAnnotations``, but fails on a damaged file or a label outside the classes.

    Without it such a label is an index error in the loss, an assertion on a CUDA device, or, in
    testing, a silently wrong metric.

    Args:
        num_classes: labels 0 .. num_classes - 1 are allowed, after ``reduce_zero_label``.
        ignore_index: this label is allowed too.
        on_error: 'raise', or in training 'skip': another sample takes the place of one whose file
            is damaged or has other labels.
        max_skipped: so many such files are left out, one more is an error.
        **kwargs: as in mmseg.

    Raises:
        SegformerPlusPlusError: the file is missing or damaged, has other labels, or is of another
            size than the image, which EXIF may have turned, or EXIF turned the image so that its
            size does not tell whether it fits.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        on_error: str = 'raise',
        max_skipped: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.skips = Skips(on_error, max_skipped)
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Reads ``results['seg_map_path']`` into ``results['gt_seg_map']``, (H, W) uint8."""
        return self.skips(lambda: self._load(results))

    def _load(self, results: dict[str, Any]) -> dict[str, Any]:
        path = results['seg_map_path']
        with reading('label map', path):
            mode, size = self._kind(path)
        with reading('label map', path, (OSError, SyntaxError, ValueError)):
            results = super().transform(results)
        # mmseg has cast to uint8, which folds 16-bit labels into wrong classes
        if mode not in ('1', 'L', 'P'):
            raise SegformerPlusPlusError(
                f'label map {path} has pixels of kind {mode!r}, expected one channel of 8 bits'
            )
        height, width = results.get('ori_shape', size[::-1])[:2]
        if size != (width, height):
            raise SegformerPlusPlusError(
                f'label map {path} is {size[0]} x {size[1]}, but image {results.get("img_path")} '
                f'is {width} x {height} as it is loaded (EXIF turns images, but no label maps): '
                'give both one size'
            )
        why = explain_turn(results.get('exif_orientation', 1), size)
        if why:
            raise SegformerPlusPlusError(f'label map {path} of {results.get("img_path")}: {why}')
        labels = results['gt_seg_map']
        amounts = np.bincount(labels.ravel(), minlength=256)
        found = np.flatnonzero(amounts)
        outside = found[(found >= self.num_classes) & (found != self.ignore_index)]
        if len(outside):
            renamed = results.get('label_map') or {}
            voids = {old for old, new in renamed.items() if new == self.ignore_index}
            passed = ', '.join(map(str, sorted({*voids, self.ignore_index})))
            raise SegformerPlusPlusError(
                f'label map {path} has the label {outside[0]} in {amounts[outside[0]]} pixel(s), '
                f'allowed are 0..{self.num_classes - 1} and {passed} (ignored)'
            )
        return results

    def _kind(self, path: str) -> tuple[str, tuple[int, int]]:
        data = fileio.get(path, backend_args=self.backend_args)
        with open_image(BytesIO(data)) as image:
            return image.mode, image.size
