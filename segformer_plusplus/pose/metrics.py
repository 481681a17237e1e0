"""Measures the percentage of correct keypoints at several thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mmpose.evaluation.metrics import PCKAccuracy
from mmpose.registry import METRICS

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

    def __init__(
        self,
        thresholds: float | Sequence[float] = (0.1, 0.05),
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(norm_item='bbox', collect_device=collect_device, prefix=prefix)
        self.thresholds = _names(thresholds)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Computes accuracies by name from the results of all samples, keypoints (1, K, 2) each."""
        if not any(result['mask'].any() for result in results):
            raise SegformerPlusPlusError(
                'PCK: no keypoint is annotated in the whole set; check its annotation file'
            )
        metrics = {}
        for name, threshold in self.thresholds.items():
            self.thr = threshold
            metrics[name] = float(super().compute_metrics(results)['PCK'])
        return metrics


def _names(thresholds: float | Sequence[float]) -> dict[str, float]:
    """Maps the names of metrics to their thresholds."""
    given = thresholds if isinstance(thresholds, list | tuple) else [thresholds]
    numbers = [n for n in given if isinstance(n, int | float) and 0 < n < math.inf]
    names = {f'PCK@{number:g}': number for number in numbers}
    if not given or len(names) < len(given):
        raise SegformerPlusPlusError(
            f'thresholds={thresholds!r}: give one or more different numbers above 0, '
            'for example (0.1, 0.05)'
        )
    return names
