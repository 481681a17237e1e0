"""What every generator checks of its arguments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segformer_plusplus.errors import SegformerPlusPlusError


def check_whole(name: str, value: int, low: int) -> None:
    """Raises `SegformerPlusPlusError` unless `value` is a whole number, `low` or more."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low:
        raise SegformerPlusPlusError(
            f'{name}={value!r} is not allowed: a whole number, {low} or more'
        )


def check_amounts(train: int, val: int, seed: int, workers: int) -> None:
    """Raises `SegformerPlusPlusError` for a number that no writer takes."""
    check_whole('train', train, 0)
    check_whole('val', val, 0)
    check_whole('seed', seed, 0)
    check_whole('workers', workers, 1)


def check_between(size: tuple[int, int], low: tuple[int, int], high: tuple[int, int]) -> None:
    """Raises `SegformerPlusPlusError` unless `size` (height, width) can be drawn."""
    whole = len(size) == 2 and all(isinstance(n, int | np.integer) for n in size)
    if not whole or not all(a <= n <= b for a, n, b in zip(low, size, high, strict=True)):
        raise SegformerPlusPlusError(
            f'size={tuple(size)} cannot be drawn: height x width must be whole numbers from '
            f'{low[0]} x {low[1]} to {high[0]} x {high[1]}'
        )


def generator(seed: int | Sequence[int]) -> np.random.Generator:
    """Random numbers for a seed; raises `SegformerPlusPlusError` if it is none."""
    try:
        return np.random.default_rng(np.random.SeedSequence(seed))
    except (TypeError, ValueError):
        raise SegformerPlusPlusError(
            f'seed={seed!r} is not allowed: one or more whole numbers, none below 0'
        ) from None
