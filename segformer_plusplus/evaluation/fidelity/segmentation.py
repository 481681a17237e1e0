"""Measures what strategies cost a segmentor: labels that change, and fine classes."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS, METRICS
from torch import Tensor

from ...errors import SegformerPlusPlusError
from ...inference.labels import label_dtype
from ...inference.reader import Reader
from ...inference.segmenter import Segmenter
from ...inference.sources import Picture
from ...registration import component_names
from ...segmentation.labels import class_counts
from ..results import PRESENT
from .base import RADIUS, Fidelity, Source
from .opening import Options, Pictures, build_test_set, find_images, source_of_test_set

Areas = tuple[Tensor, Tensor, Tensor, Tensor]
"""Intersection, union, prediction and truth of every class, as mmseg's metric counts them."""


def count_pixels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the pixels of each class, and how many of them lie deep inside.

    A pixel's distance to the border is the Euclidean one to the nearest pixel of another class or
    without a label. The edge of the image is no border.

    Args:
        labels: (H, W); a label from ``num_classes`` on does not count.
        num_classes: K.

    Returns:
        (K, 2) int64: all pixels, and the pixels farther than ``RADIUS`` from the border.
    """
    counts = np.zeros((num_classes, 2), dtype=np.int64)
    present = np.unique(labels)
    for label in present[(present >= 0) & (present < num_classes)]:
        mask = _cut_out(labels == label).astype(np.uint8)
        # exact where the other distances of OpenCV are approximations
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        counts[label] = np.count_nonzero(mask), np.count_nonzero(distance > RADIUS)
    return counts


def find_fine_classes(counts: Iterable[np.ndarray]) -> list[int]:
    """Returns the classes of which less than half lies deep inside, from the counts of images."""
    total, deep = np.sum(list(counts), axis=0).T
    return [int(label) for label in np.flatnonzero(2 * deep < total)]


def _cut_out(mask: np.ndarray) -> np.ndarray:
    """Returns the box of the set pixels with a margin of one: no border lies farther away."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    return mask[top : rows[-1] + 2, left : columns[-1] + 2]


@dataclass(frozen=True)
class LabelMap:
    """Holds the prediction for one image, packed to a few percent, and its areas if any."""

    packed: bytes
    shape: tuple[int, int]
    dtype: type[np.uint8] | type[np.uint16]
    areas: Areas | None

    @property
    def labels(self) -> np.ndarray:
        """Returns the labels (H, W)."""
        return np.frombuffer(zlib.decompress(self.packed), self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Truth:
    """Says how mmseg's metric reads the ground truth.

    Attributes:
        classes: the names of the classes.
        ignore_index: the label that does not count.
        nan_to_num: the IoU of classes that do not occur; None leaves them out.
        fine_classes: names that take the place of the classes that are found to be fine.
    """

    classes: tuple[str, ...]
    ignore_index: int = 255
    nan_to_num: int | None = None
    fine_classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in self.fine_classes or ():
            if name not in self.classes:
                raise SegformerPlusPlusError(
                    f'fine_classes: {name!r} is no class of the data set, which has '
                    + ', '.join(self.classes)
                )


class SegmentationFidelity(Fidelity[LabelMap]):
    """Measures a segmentor of mmseg on images, whose samples may have a ``gt_sem_seg``."""

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
        """Returns the thin and small classes of the whole set, whatever the subset.

        Less than half of the labelled pixels of such a class lie farther than ``RADIUS`` pixels
        from its border. Without ground truth there are none.
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
        """Counts the classes without a labelled pixel; 0 before the images are predicted."""
        if not self._kept.keys() >= set(self._indices):
            return 0
        areas = [self._kept[index].areas for index in self._indices]
        truth = torch.stack([each[3] for each in areas if each is not None])
        return int((truth.sum(dim=0) == 0).sum())

    def _knows_fine(self) -> bool:
        """Returns whether the fine classes are known without reading more ground truth."""
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

    def _timed_call(self, model: Any) -> Callable[[], Any]:
        return partial(model, **self._prepared(model), mode='predict')


def open_model(
    cfg: Config, checkpoint: str | os.PathLike[str] | None, options: Options
) -> SegmentationFidelity:
    """Opens the fidelity of a mmseg config; what is missing is said before the model is built."""
    init_default_scope('mmseg')
    truth: Truth | None = None
    data: Any = None
    if options.images is not None:
        pictures = find_images(options, cfg)
    else:
        data = build_test_set(cfg, DATASETS)
        infos = [data.get_data_info(index) for index in range(options.count(len(data)))]
        truth = _read_truth(data, infos, cfg, options.fine_classes)
        reader = Reader(cfg)
        pictures = [_picture(info, reader) for info in infos]
    if truth is None and options.fine_classes is not None:
        raise SegformerPlusPlusError('fine_classes: there is no ground truth to average over')
    segmenter = Segmenter(cfg, checkpoint, device=options.device)
    num_classes = len(segmenter.classes)
    if truth is None:
        source = Source(Pictures(pictures, segmenter.prepare), len(pictures))
    else:
        if len(truth.classes) not in class_counts(segmenter.model.decode_head):
            raise SegformerPlusPlusError(
                f'the model tells {num_classes} classes apart, but the test set has '
                f'{len(truth.classes)}'
            )
        source = source_of_test_set(cfg, data, len(pictures), segmenter.model)
    return SegmentationFidelity(segmenter.model, source, truth, num_classes, options.progress)


def _read_truth(
    data: Any, infos: list[dict[str, Any]], cfg: Config, fine_classes: Sequence[str] | None
) -> Truth | None:
    """Returns how to compare with the ground truth of these images; warns if there is none."""
    paths = [str(info.get('seg_map_path', '')) for info in infos]
    missing = [path for path in paths if '://' not in path and not Path(path).is_file()]
    if missing and len(missing) < len(paths):
        raise SegformerPlusPlusError(
            f'{len(missing)} of {len(paths)} label maps of the test set are missing, first '
            f'{missing[0]!r}'
        )
    if missing or 'gt_sem_seg' not in data[0]['data_samples']:
        where = f' ({missing[0]} is not there)' if missing and missing[0] else ''
        _warn(f'the test set has no labels{where}: accuracy is left out')
        return None
    evaluators = cfg.get('test_evaluator') or []
    evaluators = evaluators if isinstance(evaluators, list | tuple) else [evaluators]
    metric: Mapping[str, Any] = next(
        (each for each in evaluators if 'IoUMetric' in component_names(each.get('type'), METRICS)),
        {},
    )
    truth = Truth(
        tuple(data.metainfo['classes']),
        metric.get('ignore_index', 255),
        metric.get('nan_to_num'),
        fine_classes,
    )
    # as a rule, the first image tells
    if not any(_is_labelled(data[index]['data_samples'], truth) for index in range(len(infos))):
        _warn(f'no pixel of the {len(infos)} images is labelled: accuracy is left out')
        return None
    return truth


def _is_labelled(sample: Any, truth: Truth) -> bool:
    labels = sample.gt_sem_seg.data
    return bool(((labels != truth.ignore_index) & (labels < len(truth.classes))).any())


def _warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)


def _picture(info: Mapping[str, Any], reader: Reader) -> Picture:
    path = Path(info['img_path'])
    return Picture(str(path), lambda: reader.file(path), path=path)
