"""Measures the percentage of correct keypoints at several thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmpose.evaluation.metrics import PCKAccuracy
from mmpose.registry import METRICS
from numpy.typing import NDArray

from ..errors import SegformerPlusPlusError


@METRICS.register_module()
class BoxPCK(PCKAccuracy):
    """Is mmpose's ``PCKAccuracy``, normalised by the box, at several thresholds under their names.

    A keypoint is correct if it is nearer to the truth than the threshold times the longer side of
    the person's box, clipped to the image. The accuracy of every keypoint is averaged over the
    keypoints, as in mmpose: a fraction from 0 to 1. The metrics are named ``PCK@<threshold>``, so
    that several stand side by side; mmpose's own are all called ``PCK``.

    Args:
        thresholds: one or more fractions of the box, each above 0.
        collect_device: 'cpu' or 'gpu', where results of several processes are gathered.
        prefix: put before the names, as in ``prefix/PCK@0.1``.

    Raises:
        SegformerPlusPlusError: no threshold, one that is no number above 0, or one given twice; in
            the evaluation: no annotated keypoint.
    """

    default_prefix = ''
    short_name = 'PCK'
    nothing = 'no keypoint is annotated in the whole set'

    def __init__(
        self,
        thresholds: float | Sequence[float] = (0.1, 0.05),
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(norm_item='bbox', collect_device=collect_device, prefix=prefix)
        self.thresholds = _names(thresholds, self.short_name)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Computes accuracies by name from the results of all samples, keypoints (1, K, 2) each."""
        if not any(result['mask'].any() for result in results):
            raise SegformerPlusPlusError(
                f'{self.short_name}: {self.nothing}; check its annotation file'
            )
        metrics = {}
        for name, threshold in self.thresholds.items():
            self.thr = threshold
            metrics[name] = float(super().compute_metrics(results)['PCK'])
        return metrics

    def counted(self, visible: NDArray[Any]) -> NDArray[np.bool_]:
        """Returns which of the keypoints (N, K) of people count: those that are annotated."""
        return visible > 0


@METRICS.register_module()
class TorsoPCK(BoxPCK):
    """Is ``BoxPCK`` with the torso's diagonal in the place of the box, as for LSP.

    The diagonal is that from the left shoulder to the right hip. A person of whom one of the two is
    not annotated, or both are at one place, does not count. The metrics are named
    ``tPCK@<threshold>``.

    Args:
        thresholds: one or more fractions of the diagonal, each above 0.
        torso: names of the two keypoints at its ends, as the dataset has them.
        collect_device: as in ``BoxPCK``.
        prefix: as in ``BoxPCK``.

    Raises:
        SegformerPlusPlusError: as in ``BoxPCK``, another number of names, or the dataset has
            no such keypoint.
    """

    short_name = 'tPCK'
    nothing = 'nobody in the whole set has both ends of the torso annotated'

    def __init__(
        self,
        thresholds: float | Sequence[float] = 0.2,
        torso: Sequence[str] = ('left_shoulder', 'right_hip'),
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(thresholds, collect_device, prefix)
        if isinstance(torso, str) or len(torso) != 2 or torso[0] == torso[1]:
            raise SegformerPlusPlusError(f'torso={torso!r}: give the names of two keypoints')
        self.torso = tuple(torso)

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keeps the keypoints of a batch, with the torso's diagonal in the box's place."""
        ends, start = self._ends(), len(self.results)
        super().process(data_batch, data_samples)
        for result in self.results[start:]:
            a, b = result['gt_coords'][0, ends]
            length = np.linalg.norm(a - b)
            result['bbox_size'] = np.full((1, 2), length)
            result['mask'] = self.counted(result['mask']) & (length > 0)

    def counted(self, visible: NDArray[Any]) -> NDArray[np.bool_]:
        """Returns which of the keypoints (N, K) of people count: if the torso's ends are there."""
        there = super().counted(visible)
        return there & there[:, self._ends()].all(axis=1, keepdims=True)

    def _ends(self) -> list[int]:
        ids = (self.dataset_meta or {}).get('keypoint_name2id', {})
        unknown = [name for name in self.torso if name not in ids]
        if unknown:
            raise SegformerPlusPlusError(
                f'TorsoPCK: torso={self.torso!r}, but the dataset has no keypoint {unknown[0]!r}; '
                f'it has {", ".join(ids)}'
            )
        return [ids[name] for name in self.torso]


def _names(thresholds: float | Sequence[float], short_name: str) -> dict[str, float]:
    """Maps the names of metrics to their thresholds."""
    given = thresholds if isinstance(thresholds, list | tuple) else [thresholds]
    numbers = [n for n in given if isinstance(n, int | float) and 0 < n < math.inf]
    names = {f'{short_name}@{number:g}': number for number in numbers}
    if not given or len(names) < len(given):
        raise SegformerPlusPlusError(
            f'thresholds={thresholds!r}: give one or more different numbers above 0, '
            'for example (0.1, 0.05)'
        )
    return names
