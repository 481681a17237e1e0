"""Shares what tools on data sets need: checked numbers, several processes, reasons of errors."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import cv2
import numpy as np

from segformer_plusplus.errors import SegformerPlusPlusError

Job = TypeVar('Job')
Result = TypeVar('Result')


def check_whole(name: str, value: int, least: int) -> None:
    """Raises `SegformerPlusPlusError` unless `value` is a whole number, `least` or more."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise SegformerPlusPlusError(
            f'{name}={value!r} is not allowed: a whole number, {least} or more'
        )


def reason(error: Exception) -> str:
    """Says on one line why something failed."""
    return ' '.join(str(error).split()) or type(error).__name__


def run(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Works through the jobs and yields their results in order.

    Args:
        work: Takes a job. A function of a module: other processes import it.
        jobs: The jobs.
        workers: Number of processes; 1 works in this one.
    """
    if workers <= 1:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context('spawn')
    # One core a process: OpenCV would otherwise start as many threads in each as there are cores.
    with ProcessPoolExecutor(workers, context, cv2.setNumThreads, (1,)) as pool:
        yield from pool.map(work, jobs)
