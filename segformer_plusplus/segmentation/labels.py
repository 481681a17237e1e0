"""Turns logits into labels, in the one way of all who predict; needs torch alone."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def labels_of(logits: Tensor, size: tuple[int, int], head: Any = None) -> Tensor:
    """Turns logits into labels as mmseg's segmentors do.

    Args:
        logits: (B, K, h, w); one logit tells two labels apart.
        size: H and W.
        head: has mmseg's ``align_corners`` and ``threshold``; else they are False and 0.5, as other
            libraries document it.

    Returns:
        (B, H, W) int64.
    """
    corners = bool(getattr(head, 'align_corners', False))
    logits = F.interpolate(logits, size, mode='bilinear', align_corners=corners)
    return choose(logits, getattr(head, 'threshold', None))


def choose(logits: Tensor, threshold: float | None) -> Tensor:
    """Turns logits (B, K, H, W) into labels (B, H, W) int64, the largest.

    Of one logit it is label 1 where its sigmoid is above the threshold (None is 0.5).
    """
    if logits.shape[1] > 1:
        return logits.argmax(dim=1)
    return (logits[:, 0].sigmoid() > (0.5 if threshold is None else threshold)).long()


def class_counts(head: Any) -> tuple[int, ...]:
    """Returns how many classes a head can be of: one logit is of two, or of one and the rest."""
    return (1, 2) if head.out_channels == 1 else (head.num_classes,)
