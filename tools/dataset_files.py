"""What all tools that write data sets share: checked sizes, whole files, several processes."""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.files import replace


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


JPEG = cv2.IMWRITE_JPEG_QUALITY, 92
FASTEST_PNG = cv2.IMWRITE_PNG_COMPRESSION, 1

Job = TypeVar('Job')
Result = TypeVar('Result')


@dataclass(frozen=True)
class Record:
    """The file that says what a folder holds, so that a second call continues it or refuses.

    Attributes:
        folder: The folder to fill.
        kind: What is drawn, such as 'scenes': also the name of the file, without '.json'.
        asked: What decides the bytes of the folder's files, and what else must not be mixed.
    """

    folder: Path
    kind: str
    asked: dict[str, Any]

    @property
    def path(self) -> Path:
        """The record file."""
        return self.folder / f'{self.kind}.json'

    @classmethod
    def of_images(
        cls,
        folder: Path,
        kind: str,
        layout: str,
        size: tuple[int, int],
        seed: int,
        amounts: dict[str, int],
        version: int,
    ) -> Record:
        """The record of so many images a split of one size (height, width), by one generator."""
        asked = {
            'layout': layout,
            'size': [int(side) for side in size],
            'seed': int(seed),
            **{split: int(amount) for split, amount in amounts.items()},
            'generator_version': version,
        }
        return cls(folder, kind, asked)

    def claim(self, contents: Iterable[str]) -> None:
        """Makes sure that the folder is ours to fill, and says in it what it will hold.

        Args:
            contents: Names in the folder that are ours to write: without a record beside them
                they are somebody else's.

        Raises:
            SegformerPlusPlusError: For a folder that holds, or may hold, anything else.
        """
        if self.path.exists():
            self._compare()
            return
        for name in contents:
            if (self.folder / name).exists():
                raise SegformerPlusPlusError(
                    f'{self.folder / name} exists without {self.path.name} beside it, so it is '
                    f'not ours to add to: name another folder for {_describe(self.asked)}'
                )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise SegformerPlusPlusError(
                f'{self.folder} is not a folder: name another one'
            ) from None
        self.save(complete=False)

    def save(self, *, complete: bool) -> None:
        """Writes the record, unless it says so already."""
        text = json.dumps({**self.asked, 'complete': complete}, indent=2) + '\n'
        if not self.path.exists() or self.path.read_text(encoding='utf-8') != text:
            replace(self.path, text.encode())

    def _compare(self) -> None:
        try:
            held = json.loads(self.path.read_text(encoding='utf-8'))
            held.pop('complete', None)
        except (ValueError, AttributeError):
            raise SegformerPlusPlusError(
                f'{self.path} cannot be read as JSON: name another folder, or remove this one'
            ) from None
        if held != self.asked:
            raise SegformerPlusPlusError(
                f'{self.folder} holds other {self.kind} ({_describe(held)}) than asked for '
                f'({_describe(self.asked)}): name another folder, or remove this one'
            )


def _describe(record: dict[str, Any]) -> str:
    return ', '.join(f'{key}={value}' for key, value in record.items())


def height_by_width(text: str) -> tuple[int, int]:
    """Reads '512x1024' as height and width: the type of a command line argument."""
    parts = text.lower().split('x')
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f'{text!r} is not HEIGHTxWIDTH, such as 512x1024')
    return int(parts[0]), int(parts[1])


def run(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Works through the jobs in any order; yields each result.

    Args:
        work: A module's function: the workers import it.
        jobs: What it is called with, once each.
        workers: Number of processes; 1 works in this one.
    """
    if workers <= 1:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context('spawn')
    # One core a process: OpenCV would otherwise start as many threads in each as there are cores.
    with ProcessPoolExecutor(workers, context, cv2.setNumThreads, (1,)) as pool:
        pending = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(pending):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def encode(pixels: np.ndarray, suffix: str, parameters: Sequence[int]) -> bytes:
    """Compresses (H, W, 3) BGR or (H, W) uint8 as the file type of `suffix`."""
    _, encoded = cv2.imencode(suffix, np.ascontiguousarray(pixels), parameters)
    return encoded.tobytes()
