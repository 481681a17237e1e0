"""Gives labels their type of number, their colours and their classes."""

from __future__ import annotations

import numpy as np


def label_dtype(classes: int) -> type[np.uint8] | type[np.uint16]:
    """Returns the smallest type of labels that a PNG file can hold."""
    return np.uint8 if classes <= 256 else np.uint16


def distinct_colours(count: int) -> np.ndarray:
    """Returns the RGB colours (count, 3) uint8 of PASCAL VOC.

    The bits of a label go to red, green and blue in turn, the lowest ones first to the highest
    bits of the colours.
    """
    bits = (np.arange(count)[:, None] >> np.arange(24) & 1).reshape(count, 8, 3)
    return np.packbits(bits.astype(np.uint8), axis=1).reshape(count, 3)


def first_label(classes: int) -> int:
    """Returns the label of the first class: 1 if it is alone, as mmseg trains it; 0 is the rest."""
    return int(classes == 1)
