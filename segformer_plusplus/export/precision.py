"""Says in which precisions a file computes, and how near to float32 each has to stay."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..errors import SegformerPlusPlusError


class Limits(NamedTuple):
    """Holds what a file in some precision has to keep, on every input that counts.

    Attributes:
        relative_error: of logits and heatmaps; the largest difference over the largest value.
        equal_labels: share of the pixels whose label, or largest logit, must be that of PyTorch.
    """

    relative_error: float
    equal_labels: float


LIMITS = {
    'fp32': Limits(1e-3, 0.999),
    'fp16': Limits(0.05, 0.98),
    'bf16': Limits(0.1, 0.95),
    'int8': Limits(0.3, 0.95),
}
"""Holds what every precision is allowed, against PyTorch in float32 on the same images."""

HALF = {'fp16': torch.float16, 'bf16': torch.bfloat16}
"""Holds the types that PyTorch's own graphs are cast to."""


def check_precision(precision: str) -> None:
    """Raises a SegformerPlusPlusError unless this is a precision."""
    if precision not in LIMITS:
        raise SegformerPlusPlusError(
            f'precision={precision!r} is unknown, use one of {list(LIMITS)}'
        )


def check_calibration(precision: str, given: bool) -> None:
    """Raises a SegformerPlusPlusError unless images are given for int8, and for nothing else."""
    if given == (precision == 'int8'):
        return
    if given:
        raise SegformerPlusPlusError(
            f'precision={precision!r} is not calibrated; leave the images (--calibrate) out, or '
            'take int8'
        )
    raise SegformerPlusPlusError(
        "precision='int8' is calibrated on images like those that the model will see; give 10 to "
        '50 of them (--calibrate FOLDER)'
    )
