"""Leaves images out of a dataset: ``LeaveOut`` in a config, and the list of paths that it reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS

from ..errors import SegformerPlusPlusError
from ..files import replace


def without_listed(dataset: dict[str, Any] | BaseDataset, leave_out: str) -> BaseDataset:
    """Builds a dataset and takes the listed images out of it.

    In a config::

        dataset=dict(type='LeaveOut', leave_out='fix.train.txt', dataset=dict(type='...', ...))

    It is written like a wrapper, but the result is the dataset itself, of its own class, so that
    samplers, hooks, metrics and mmpose's ``CombinedDataset`` meet what they expect. mmpose's
    ``CocoMetric`` without an ``ann_file`` then counts the remaining people only.

    Args:
        dataset: config of a dataset with files of its own, not of a wrapper: in
            ``RepeatDataset`` and ``ConcatDataset`` this goes inside.
        leave_out: text file with one image path a line, relative to the dataset's ``data_root``;
            empty lines and lines with '#' in front do not count. A relative path starts at the
            working directory. ``tools/check_dataset.py --fix-list`` writes such files.

    Raises:
        SegformerPlusPlusError: The list cannot be read, names an image that the dataset does not
            have, or leaves none.
    """
    if isinstance(dataset, dict):
        dataset = DATASETS.build(dataset)
    if not isinstance(dataset, BaseDataset) or hasattr(dataset, 'datasets'):
        raise SegformerPlusPlusError(
            f'LeaveOut takes a dataset with files of its own, not {type(dataset).__name__}; put '
            f'LeaveOut inside, around each dataset'
        )
    listed = read_list(leave_out, dataset.data_root)
    dataset.full_init()
    paths = [absolute(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))]
    check_all_known(listed, paths, dataset, leave_out)
    kept = [index for index, path in enumerate(paths) if path not in listed]
    if not kept:
        raise SegformerPlusPlusError(f'{leave_out} leaves no image of the dataset')
    if len(kept) < len(paths):
        dataset.get_subset_(kept)
        if dataset.test_mode:
            # CocoMetric would count everybody in this file, those who were left out as missed
            name = dataset.metainfo.get('dataset_name')
            MessageHub.get_current_instance().pop_info(f'{name}_ann_file')
    return dataset


DATASETS.register_module(name='LeaveOut', force=True, module=without_listed)


def leaves_of(dataset: Any) -> Iterator[Any]:
    """Yields the datasets with files of their own in one that is built, such as RepeatDataset."""
    inner = getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None)
    for part in inner if isinstance(inner, list | tuple) else [inner]:
        yield from [dataset] if part is None else leaves_of(part)


def absolute(path: str | os.PathLike[str], root: str | None = None) -> str:
    """Returns the absolute path, however it was written; a relative one starts at ``root``."""
    return os.path.abspath(os.path.join(root or '', path))


def relative(path: str, root: str | None) -> str:
    """Returns how a list names a path: from ``root`` on if it lies there, else in full."""
    full, start = absolute(path), absolute(root or '')
    inside = os.path.commonpath((full, start)) == start
    name = os.path.relpath(full, start) if inside else full
    # a name may begin with what would make a comment of it
    return os.path.join('.', name) if name.startswith(('#', ' ')) else name


def read_list(path: str | os.PathLike[str], root: str | None) -> dict[str, str]:
    """Reads a list of images to leave out.

    Args:
        path: The text file.
        root: The folder that its paths start at.

    Returns:
        The absolute paths, and how each was written.

    Raises:
        SegformerPlusPlusError: The file is missing or no text.
    """
    try:
        lines = Path(path).read_text(encoding='utf-8').splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or 'it is no text in UTF-8'
        raise SegformerPlusPlusError(f'cannot read leave_out={str(path)!r}: {reason}') from error
    entries = [line for line in lines if line.strip() and not line.startswith('#')]
    return {absolute(entry, root): entry for entry in entries}


def write_list(path: str | os.PathLike[str], entries: Iterable[str], header: Sequence[str]) -> None:
    """Writes a list of images to leave out, whole or not at all.

    Args:
        path: The text file; its folder is made if it is missing.
        entries: As `relative` spells them.
        header: Lines of the comment on top.

    Raises:
        SegformerPlusPlusError: an entry would not be read again as it is.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = list(entries)
    for entry in entries:
        if entry.encode(errors='replace').decode().strip().splitlines() != [entry]:
            raise SegformerPlusPlusError(
                f'{path} cannot be written: {entry!r} is no line in UTF-8; rename the image'
            )
    lines = [*(f'# {line}' for line in header), *entries]
    replace(path, ('\n'.join(lines) + '\n').encode())


def check_all_known(
    listed: dict[str, str], paths: Iterable[str], dataset: BaseDataset, name: object
) -> None:
    """Checks that the dataset knows every image of a list.

    Args:
        listed: What `read_list` returned.
        paths: Absolute paths of the dataset's images.
        dataset: It may leave out images of its annotation file itself; those count as known.
        name: Of the list, for the message.

    Raises:
        SegformerPlusPlusError: Names the first image that is not known.
    """
    unknown = listed.keys() - set(paths)
    if unknown:
        unknown -= {absolute(path) for path in image_paths(dataset)}
    if unknown:
        first = min(unknown)
        raise SegformerPlusPlusError(
            f'{name} lists {listed[first]}, which is no image of the dataset'
            + (f', and {len(unknown) - 1} more' if len(unknown) > 1 else '')
            + f': write paths relative to {dataset.data_root or "the working directory"}, '
            'with one list for each split'
        )


@dataclass(frozen=True)
class CocoFile:
    """Holds an annotation file.

    Attributes:
        images: Its images.
        annotations: Its people.
        folder: Where the images are.
    """

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    folder: str

    def path(self, image: Mapping[str, Any]) -> str:
        """Returns the path of one of the images, as mmpose names it."""
        return os.path.join(self.folder, str(image['file_name']))


def read_coco(dataset: Any) -> CocoFile | None:
    """Reads the annotation file of a dataset; None if it is not in COCO's format.

    Raises:
        SegformerPlusPlusError: It is no JSON.
    """
    path = getattr(dataset, 'ann_file', '')
    prefix = getattr(dataset, 'data_prefix', {})
    if not str(path).endswith('.json') or 'img' not in prefix:
        return None
    try:
        with Path(path).open(encoding='utf-8') as file:
            content = json.load(file)
    except ValueError as error:
        raise SegformerPlusPlusError(f'{path} cannot be read as JSON: {error}') from error
    if not isinstance(content, dict):
        return None
    images: Any = content.get('images')
    annotations: Any = content.get('annotations')
    for part in (images, annotations):
        if not isinstance(part, list) or not all(isinstance(one, dict) for one in part):
            return None
    return CocoFile(images, annotations, prefix['img'])


def image_paths(dataset: Any) -> list[str]:
    """Returns all images of a dataset's annotation file, also those that the dataset drops."""
    coco = read_coco(dataset)
    if coco is None:
        return []
    return [coco.path(image) for image in coco.images if 'file_name' in image]
