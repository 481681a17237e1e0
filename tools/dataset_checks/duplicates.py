"""Finds the same image in two places: within a split, and, worse, in two of them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tools.dataset_checks.findings import Finding


@dataclass(frozen=True)
class Copy:
    """One image that could be decoded.

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
    """Names equal images; of two, the later one of a split, the one of the earlier split.

    So leaving out what is named keeps one of each, and validation and test as they are. The same
    file in two datasets of one split (``ConcatDataset``) is taken for weighting, not for a
    mistake.

    Args:
        copies: In the order of the splits and of their files.
    """
    for group in _groups(copies, [one.content for one in copies]):
        first: dict[str, Copy] = {}
        for one in group:
            first.setdefault(one.split, one)
        for one in group:
            start = first[one.split]
            if one.path != start.path:
                yield _finding('duplicate_within', one, start, 'same content as')
            for later in _later(one, first):
                yield _finding('duplicate_between', one, later, 'same content as')


def find_same_names(copies: Sequence[Copy]) -> Iterator[Finding]:
    """Names files of two splits that are called the same and differ: perhaps only in coding."""
    for group in _groups(copies, [os.path.basename(one.path) for one in copies]):
        first: dict[str, Copy] = {}
        for one in group:
            first.setdefault(one.split, one)
        for one in group:
            for later in _later(one, first):
                if one.content != later.content:
                    yield _finding('same_name', one, later, 'same name as')


def _groups(copies: Sequence[Copy], keys: Iterable[bytes | str]) -> Iterator[list[Copy]]:
    groups: dict[bytes | str, list[Copy]] = defaultdict(list)
    for key, one in zip(keys, copies, strict=True):
        groups[key].append(one)
    return (group for group in groups.values() if len(group) > 1)


def _later(one: Copy, first: dict[str, Copy]) -> list[Copy]:
    """The first copy in each split behind that of ``one``; ``first`` is in their order."""
    splits = list(first)
    return [first[split] for split in splits[splits.index(one.split) + 1 :]]


def _finding(check: str, one: Copy, other: Copy, words: str) -> Finding:
    return Finding(check, one.source, one.name, f'{words} {other.source}: {other.name}', one.name)
