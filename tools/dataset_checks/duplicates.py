"""Finds the same image in two places: within a split, and, worse, in two of them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tools.dataset_checks.findings import Finding


@dataclass(frozen=True)
class Copy:
    """Holds one image that could be decoded.

    Attributes:
        split: 'train', 'val' or 'test'.
        source: As `Finding.source`.
        path: Absolute.
        name: Relative to the data root.
        content: What equal images share: their digest, or only their file.
    """

    split: str
    source: str
    path: str
    name: str
    content: bytes | str


def find_duplicates(copies: Sequence[Copy]) -> Iterator[Finding]:
    """Names equal images, and different ones of two splits that have the same file name.

    Of two equal images it names the later one of a split, and the one of the earlier split: so
    leaving out what is named keeps one of each, and validation and test as they are. The same file
    in two datasets of one split (``ConcatDataset``) is taken for weighting, not for a mistake.

    Args:
        copies: In the order of the splits and of their files.
    """
    for one, other in _pairs(copies, lambda copy: copy.content):
        if one.split != other.split:
            yield _finding('duplicate_between', one, other, 'same content as')
        elif one.path != other.path:
            yield _finding('duplicate_within', one, other, 'same content as')
    for one, other in _pairs(copies, lambda copy: os.path.basename(copy.path)):
        if one.split != other.split and one.content != other.content:
            yield _finding('same_name', one, other, 'same name as')


def _pairs(
    copies: Sequence[Copy], key: Callable[[Copy], bytes | str]
) -> Iterator[tuple[Copy, Copy]]:
    """Yields each image with the first of the same key in its split and in each later split."""
    groups: dict[bytes | str, list[Copy]] = defaultdict(list)
    for one in copies:
        groups[key(one)].append(one)
    for group in groups.values():
        first: dict[str, Copy] = {}
        for one in group:
            first.setdefault(one.split, one)
        splits = list(first)
        for one in group:
            for split in splits[splits.index(one.split) :]:
                yield one, first[split]


def _finding(check: str, one: Copy, other: Copy, words: str) -> Finding:
    return Finding(check, one.source, one.name, f'{words} {other.source}: {other.name}', one.name)
