"""Compares the labels of a segmentor."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from ..evaluation.timing import Call
from ..inference.drawing import highlight
from ..inference.labels import first_label
from ..inference.merge_maps import MergeMaps, to_inputs, turned
from ..inference.reader import visible
from ..inference.segmenter import Segmenter
from ..inference.writing import overlay
from .comparison import MAX_PIXELS, Entry, Outcome, StrategyComparer
from .files import FileComparer


class _LabelPainter:
    """Shows two label maps of one image; the name of a class has its colour in both."""

    timed = 'from the normalised image to labels'
    changes = 'Changed labels'

    def __init__(self, segmenter: Segmenter) -> None:
        self._palette, self._classes = segmenter.palette, segmenter.classes

    def __call__(self, image: np.ndarray, old: np.ndarray, new: np.ndarray) -> Outcome:
        changed = old != new
        return Outcome(
            unmerged=self._paint(image, old),
            merged=self._paint(image, new),
            changed=highlight(visible(image), changed),
            said=f'{changed.mean():.2%} of the pixels change their class',
            legend=self._legend(new),
        )

    def _paint(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(turned(overlay(turned(image), labels, self._palette)))

    def _legend(self, labels: np.ndarray) -> tuple[Entry, ...]:
        found, counts = np.unique(labels, return_counts=True)
        names, palette = self._classes, self._palette.tolist()
        if first_label(len(names)):
            names, palette = ['background', *names], [[0, 0, 0], *palette]
        return tuple(
            Entry(names[found[i]], tuple(palette[found[i]]), f'{counts[i] / labels.size:.1%}')
            for i in np.argsort(-counts, kind='stable')
        )


class SegmentationComparer(StrategyComparer):
    """Compares a segmentor's labels; images keep their own size."""

    timed, changes, shows = _LabelPainter.timed, _LabelPainter.changes, 'Classes with merging'

    def __init__(self, segmenter: Segmenter, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(segmenter, max_pixels)
        self._painter = _LabelPainter(segmenter)

    def _seen(self, image: np.ndarray) -> np.ndarray:
        return image

    def _outcome(self, image: np.ndarray, maps: MergeMaps) -> Outcome:
        assert maps.labels is not None and maps.labels_unmerged is not None
        return self._painter(image, maps.labels_unmerged, maps.labels)


class SegmentationFileComparer(FileComparer[Segmenter]):
    """Compares the labels of files; images keep their size, and are cut into tiles of a file."""

    timed, changes, shows = _LabelPainter.timed, _LabelPainter.changes, 'Classes'

    def _call(self, predictor: Segmenter, image: np.ndarray) -> Call:
        model: Any = predictor.model
        return partial(model.predict_labels, to_inputs(model, image))

    def _outcome(self, image: np.ndarray, old: Segmenter, new: Segmenter) -> Outcome:
        with torch.inference_mode():
            labels = [self._call(each, image)()[0].numpy() for each in (old, new)]
        return _LabelPainter(new)(image, *labels)
