"""Percentage of correct keypoints at several thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmpose.evaluation.metrics import PCKAccuracy
from mmpose.registry import METRICS

from ..errors import SegformerPlusPlusError


@METRICS.register_module()
class BoxPCK(PCKAccuracy):
    """mmpose's ``PCKAccuracy``, normalised by the box, at several thresholds under their names.

    A keypoint is correct if it is nearer to the truth than the threshold times the longer side of
    the person's box. The accuracy of every keypoint is averaged over the keypoints, as in mmpose:
    a share from 0 to 1. The metrics are named ``PCK@<threshold>``, so that several stand side by
    side; mmpose's own are all called ``PCK``.

    Args:
        thresholds: shares of the box, each above 0.
        collect_device: 'cpu' or 'gpu', where results of several processes are gathered.
        prefix: put before the names, as in ``prefix/PCK@0.1``.

    Raises:
        SegformerPlusPlusError: no threshold, one that is not above 0, or one given twice.
    """

    default_prefix = ''

    def __init__(
        self,
        thresholds: Sequence[float] = (0.1, 0.05),
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        if not thresholds or min(thresholds) <= 0 or len(set(thresholds)) < len(thresholds):
            raise SegformerPlusPlusError(
                f'thresholds={thresholds!r}: give one or more different numbers above 0, '
                'for example (0.1, 0.05)'
            )
        super().__init__(norm_item='bbox', collect_device=collect_device, prefix=prefix)
        self.thresholds = tuple(thresholds)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """The results of all samples -> share of correct keypoints by name."""
        metrics = {}
        for threshold in self.thresholds:
            self.thr = threshold
            metrics[f'PCK@{threshold:g}'] = float(super().compute_metrics(results)['PCK'])
        return metrics
