"""Segmentation: mIoU, that of thin and small classes, and the pixels that change."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from mmseg.evaluation import IoUMetric
from torch import Tensor

from ..errors import SegformerPlusPlusError
from ..inference.tiling import label_dtype
from .base import PRESENT, Fidelity
from .data import Source
from .fine_classes import count_pixels, find_fine_classes

Areas = tuple[Tensor, Tensor, Tensor, Tensor]
"""Intersection, union, prediction and truth of every class, as mmseg's metric counts them."""


@dataclass(frozen=True)
class LabelMap:
    """The prediction for one image.

    Attributes:
        packed: its labels; these compress to a few percent.
        shape: height and width.
        dtype: of the labels.
        areas: compared with the ground truth, if there is any.
    """

    packed: bytes
    shape: tuple[int, int]
    dtype: type[np.uint8] | type[np.uint16]
    areas: Areas | None

    @property
    def labels(self) -> np.ndarray:
        """(H, W)."""
        return np.frombuffer(zlib.decompress(self.packed), self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Truth:
    """How mmseg's metric reads the ground truth.

    Attributes:
        classes: their names.
        ignore_index: the label that does not count.
        nan_to_num: for classes that do not occur; None leaves them out.
        fine_classes: in place of those that are found.
    """

    classes: tuple[str, ...]
    ignore_index: int = 255
    nan_to_num: int | None = None
    fine_classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in self.fine_classes or ():
            if name not in self.classes:
                raise SegformerPlusPlusError(
                    f'fine_classes: {name!r} is no class of the data set, which has '
                    + ', '.join(self.classes)
                )


class SegmentationFidelity(Fidelity[LabelMap]):
    """A segmentor of mmseg on images, see :class:`~.base.Fidelity`.

    Args:
        model: in eval mode.
        source: of the images.
        truth: None if the samples have no ``gt_sem_seg``.
        num_classes: that the model tells apart.
        progress: show bars.
    """

    def __init__(
        self,
        model: Any,
        source: Source,
        truth: Truth | None,
        num_classes: int,
        progress: bool = True,
    ) -> None:
        super().__init__(model, source, truth is not None, progress)
        self.main_measure = 'mIoU' if truth else 'changed'
        self._truth = truth
        self._dtype = label_dtype(num_classes)
        self._pixels: dict[int, np.ndarray] = {}  # shared with subsets
        self._all = self._indices

    @property
    def fine_classes(self) -> list[str]:
        """The thin and small classes: of the whole set, whatever the subset; empty without truth.

        A class is one if less than half of its labelled pixels lie farther than ``RADIUS`` pixels
        from its border.
        """
        return [] if self._truth is None else [self._truth.classes[k] for k in self._fine()]

    def describe(self) -> str:
        images = f'{self.num_images} image' + 's' * (self.num_images > 1)
        changed = 'changed: pixels with another label than without merging'
        if self._truth is None:
            return f'{images} without ground truth; {changed}'
        if absent := self._count_absent():
            changed += f'; {absent} of the classes are not in the ground truth: where predicted, '
            changed += 'mIoU counts them as 0, drop leaves them out'
        classes = f'{images}; mIoU of {len(self._truth.classes)} classes'
        if not self._knows_fine():
            return f'{classes}; {changed}'
        fine = ', '.join(self.fine_classes) or 'none of them'
        return f'{classes}, mIoU fine of {fine}; {changed}'

    def _count_absent(self) -> int:
        """Classes without a labelled pixel, where the images were predicted; else 0."""
        if not self._kept.keys() >= set(self._indices):
            return 0
        areas = [self._kept[index].areas for index in self._indices]
        return int(
            (torch.stack([each[3] for each in areas if each is not None]).sum(dim=0) == 0).sum()
        )

    def _knows_fine(self) -> bool:
        """Whether no ground truth has to be read for it."""
        given = self._truth is not None and self._truth.fine_classes is not None
        return given or self._pixels.keys() >= set(self._all)

    def _fine(self) -> list[int]:
        assert self._truth is not None
        if self._truth.fine_classes is not None:
            return [self._truth.classes.index(name) for name in self._truth.fine_classes]
        for index in self._all:
            if index not in self._pixels:
                self._look_at(index, self._source.data[index]['data_samples'])
        return find_fine_classes(self._pixels[index] for index in self._all)

    def _look_at(self, index: int, sample: Any) -> None:
        """Counts the pixels of the ground truth."""
        if self._truth is not None and self._truth.fine_classes is None:
            labels = sample.gt_sem_seg.data[0].cpu().numpy()
            self._pixels[index] = count_pixels(labels, len(self._truth.classes))

    def _predict(self, indices: Sequence[int]) -> Iterator[LabelMap]:
        for index, sample in zip(indices, self._samples(indices), strict=True):
            if index not in self._pixels:
                self._look_at(index, sample)
            yield self._label_map(sample)

    def _label_map(self, sample: Any) -> LabelMap:
        labels = sample.pred_sem_seg.data[0].cpu()
        packed = zlib.compress(labels.numpy().astype(self._dtype), 1)
        areas = None
        if self._truth is not None:
            truth = sample.gt_sem_seg.data[0].cpu().to(labels)
            if truth.shape != labels.shape:
                raise SegformerPlusPlusError(
                    f'{sample.img_path}: the ground truth is {tuple(truth.shape)}, the prediction '
                    f'{tuple(labels.shape)}; in the test pipeline, labels are loaded after Resize'
                )
            classes, ignore = len(self._truth.classes), self._truth.ignore_index
            areas = IoUMetric.intersect_and_union(labels, truth, classes, ignore)
        return LabelMap(packed, tuple(labels.shape), self._dtype, areas)

    def _summarise(self, pairs: Iterable[tuple[LabelMap, LabelMap]]) -> dict[str, float]:
        changed = pixels = 0
        areas = []
        for found, reference in pairs:
            pixels += found.shape[0] * found.shape[1]
            if found is not reference:
                changed += np.count_nonzero(found.labels != reference.labels)
            areas.append(found.areas)
        values = {} if self._truth is None else self._accuracy(areas)
        return {**values, 'changed': 100 * changed / pixels}

    def _accuracy(self, areas: Sequence[Any]) -> dict[str, float]:
        assert self._truth is not None
        totals = [sum(each) for each in zip(*areas, strict=True)]
        metrics = IoUMetric.total_area_to_metrics(*totals, ['mIoU'], self._truth.nan_to_num)
        iou, present = metrics['IoU'], (totals[3] > 0).numpy()
        if not present.any():
            raise SegformerPlusPlusError('mIoU: no pixel is labelled in these images')
        fine = np.isin(np.arange(len(iou)), self._fine())
        means = {'mIoU': ~np.isnan(iou), 'mIoU_fine': fine & ~np.isnan(iou)}
        if not present.all():
            means |= {f'mIoU{PRESENT}': present, f'mIoU_fine{PRESENT}': fine & present}
        return {name: 100 * float(iou[mask].mean()) for name, mask in means.items() if mask.any()}

    def _timed_call(self) -> Callable[[], Any]:
        return partial(self.model, **self._prepared(), mode='predict')
