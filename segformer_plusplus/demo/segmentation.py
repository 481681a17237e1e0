"""Compares the labels of a segmentor."""

from __future__ import annotations

import numpy as np

from ..inference.drawing import highlight
from ..inference.labels import first_label
from ..inference.merge_maps import MergeMaps, turned
from ..inference.reader import visible
from ..inference.segmenter import Segmenter
from ..inference.writing import overlay
from .comparison import MAX_PIXELS, Comparer, Entry, Outcome


class SegmentationComparer(Comparer):
    """Compares a segmentor's labels; images keep their own size."""

    timed = 'from the normalised image to labels'
    changes = 'Changed labels'
    shows = 'Classes with merging'

    def __init__(self, segmenter: Segmenter, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(segmenter, max_pixels)
        self._palette, self._classes = segmenter.palette, segmenter.classes

    def _seen(self, image: np.ndarray) -> np.ndarray:
        return image

    def _outcome(self, image: np.ndarray, maps: MergeMaps) -> Outcome:
        assert maps.labels is not None and maps.labels_unmerged is not None
        assert maps.changed is not None
        return Outcome(
            unmerged=self._paint(image, maps.labels_unmerged),
            merged=self._paint(image, maps.labels),
            changed=highlight(visible(image), maps.changed),
            said=f'{maps.share_changed:.2%} of the pixels change their class',
            legend=self._legend(maps.labels),
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
