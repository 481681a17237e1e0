"""Builds the datasets that a config's data loaders read, without running their pipelines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.inference.configs import SPLITS
from segformer_plusplus.inference.reader import Reader
from segformer_plusplus.loading.leave_out import (
    CocoFile,
    absolute,
    check_all_known,
    read_coco,
    read_list,
    relative,
)
from segformer_plusplus.registration import component_name, component_names
from tools.dataset_checks.findings import Finding
from tools.dataset_checks.images import LabelRule
from tools.dataset_files import reason


@dataclass
class Source:
    """Holds one dataset of a split.

    Attributes:
        split: 'train', 'val' or 'test'.
        name: The split, with a number behind if it has several datasets: 'train.0'.
        key: Its key in the config.
        dataset: Dataset of mmseg, mmpose or another toolbox on mmengine's ``BaseDataset``.
        pipeline: The configs of its steps.
        labels: Label map of each image in order, None without one.
        twice: Images that the dataset lists more than once, though it has no boxes.
        used: Absolute paths of all images and label maps, those that are left out included.
        left_out: Absolute paths of what a ``LeaveOut`` of the config takes out.
        coco: Its annotation file, if it is one of COCO's.
        load_error: Why the dataset cannot load that file; empty if it can.
    """

    split: str
    name: str
    key: str
    dataset: Any
    pipeline: Sequence[Any] = ()
    labels: dict[str, str | None] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    coco: CocoFile | None = None
    load_error: str = ''

    @property
    def root(self) -> str:
        """Returns the folder that paths are named from."""
        return self.dataset.data_root or ''

    @property
    def whole(self) -> bool:
        """Says whether the dataset takes all that its files have (no ``indices`` and the like)."""
        interval = getattr(self.dataset, 'sample_interval', 1)
        return self.dataset._indices is None and interval == 1 and not self.dataset.filter_cfg

    @property
    def image_folder(self) -> str | None:
        """Returns the folder of its images."""
        prefix = self.dataset.data_prefix
        return prefix.get('img_path') or prefix.get('img')

    @property
    def loading(self) -> dict[str, Any] | None:
        """Returns how its pipeline loads images, for `FileJob.loading`."""
        return Reader(pipeline=self.pipeline).loading

    @property
    def label_folder(self) -> str | None:
        """Returns the folder of its label maps, None if its pipeline reads none."""
        steps = map(type, self.dataset.pipeline.transforms)
        if any(
            'Annotations' in name for step in steps for name in component_names(step, TRANSFORMS)
        ):
            return self.dataset.data_prefix.get('seg_map_path')
        return None

    @property
    def rule(self) -> LabelRule:
        """Returns which labels its classes allow."""
        info = self.dataset.metainfo
        table: np.ndarray = np.arange(256)
        if info.get('reduce_zero_label'):
            table = np.where((table == 0) | (table == 255), 255, table - 1)
        renamed = table.copy()
        for old, new in (info.get('label_map') or {}).items():
            renamed[table == old] = new
        ignore = getattr(self.dataset, 'ignore_index', 255)
        return LabelRule(renamed, len(info.get('classes') or ()), ignore)

    def shown(self, path: str) -> str:
        """Names a file as a report does: relative to the data root."""
        return relative(path, self.root)

    def finding(self, check: str, path: str, detail: str = '', image: str | None = None) -> Finding:
        """Returns what was found about a file; `image` as in `Finding`."""
        return Finding(check, self.name, self.shown(path), detail, image)

    def layout(self) -> str:
        """Says where its files are expected."""
        dataset, suffix = self.dataset, getattr(self.dataset, 'img_suffix', '')
        text = f'images {os.path.join(self.image_folder or ".", "**", "*" + suffix)}'
        if self.label_folder:
            labels = os.path.join(self.label_folder, '**', '*' + dataset.seg_map_suffix)
            text += f', labels {labels}'
        return text + (f', annotations {dataset.ann_file}' if dataset.ann_file else '')


def read_sources(cfg: Config, splits: Sequence[str] | None) -> tuple[list[Source], list[str]]:
    """Builds the datasets of some splits and reads their lists.

    Args:
        cfg: A config of mmseg or mmpose.
        splits: Some of `SPLITS`; None for those that the config has.

    Returns:
        The datasets, and remarks on what was passed over.

    Raises:
        SegformerPlusPlusError: A split has no data loader; a dataset cannot be built, lacks a
            folder or file, or is empty; a list of images to leave out does not fit.
    """
    present = [split for split in SPLITS if cfg.get(f'{split}_dataloader')]
    for split in splits or ():
        if split not in present:
            raise SegformerPlusPlusError(
                f'the config has no {split}_dataloader; it has '
                + (', '.join(present) or 'none of ' + ', '.join(SPLITS))
            )
    wanted = [split for split in SPLITS if split in (splits or present)]
    if not wanted:
        raise SegformerPlusPlusError('the config has no data loader: there is nothing to check')
    remarks = []
    if {'val', 'test'} <= set(wanted) and _data(cfg, 'val') == _data(cfg, 'test'):
        wanted.remove('test')
        remarks.append('test: the same data as val, checked once')
    sources = []
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        for split in wanted:
            key = f'{split}_dataloader.dataset'
            leaves = list(_leaves(cfg[f'{split}_dataloader'].dataset, key))
            for number, (key, dataset, lists) in enumerate(leaves):
                name = split if len(leaves) == 1 else f'{split}.{number}'
                steps = dataset.get('pipeline') or ()
                source = Source(split, name, key, _build(key, dataset), steps)
                sources.append(_read(source, lists))
    return sources, remarks


def _leaves(
    dataset: Any, key: str, lists: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
    """Yields the innermost datasets of wrappers, their keys and lists of what to leave out."""
    if not isinstance(dataset, Mapping):
        raise SegformerPlusPlusError(f'{key} is not the config of a dataset')
    if component_name(dataset.get('type')) in ('LeaveOut', 'without_listed'):
        lists = (*lists, dataset['leave_out'])
    if 'dataset' in dataset:
        yield from _leaves(dataset['dataset'], f'{key}.dataset', lists)
    elif 'datasets' in dataset:
        for index, part in enumerate(dataset['datasets']):
            yield from _leaves(part, f'{key}.datasets.{index}', lists)
    else:
        yield key, dict(dataset), lists


def _data(cfg: Config, split: str) -> Any:
    """Returns what decides which files a split reads."""
    passed = {'pipeline', 'test_mode', 'lazy_init', 'serialize_data'}
    return [
        ({name: value for name, value in dataset.items() if name not in passed}, lists)
        for _, dataset, lists in _leaves(cfg[f'{split}_dataloader'].dataset, split)
    ]


def _build(key: str, dataset: dict[str, Any]) -> Any:
    try:
        built = DATASETS.build({**dataset, 'lazy_init': True})
    except (AssertionError, OSError) as error:
        raise SegformerPlusPlusError(f'{key} cannot be built: {error!r}') from error
    # the list is read once: packing it for workers would only cost time
    built.serialize_data = False
    return built


def _read(source: Source, lists: Sequence[str]) -> Source:
    _check_places(source)
    source.coco = read_coco(source.dataset)
    try:
        source.dataset.full_init()
        entries = source.dataset.data_list
    except Exception as error:  # whatever an annotation file makes the toolbox do
        if source.coco is None:
            message = f'{source.key} cannot be loaded: {reason(error)}'
            raise SegformerPlusPlusError(message) from error
        source.load_error = f'{type(error).__name__}: {reason(error)}'
        images = (one for one in source.coco.images if 'file_name' in one)
        entries = [{'img_path': source.coco.path(one)} for one in images]
    if not entries:
        raise SegformerPlusPlusError(
            f'{source.key} is empty{_why_empty(source)}; expected are {source.layout()}; see '
            'docs/data.md'
        )
    reads_labels = source.label_folder is not None
    for entry in entries:
        path = entry['img_path']
        if path in source.labels and 'bbox' not in entry:
            source.twice.append(path)
        source.labels[path] = entry.get('seg_map_path') if reads_labels else None
    files = {*source.labels, *filter(None, source.labels.values())}
    source.used = {absolute(path) for path in files}
    for path in lists:
        listed = read_list(path, source.root)
        check_all_known(listed, source.used, source.dataset, path)
        source.left_out |= listed.keys()
    for path in [one for one in source.labels if absolute(one) in source.left_out]:
        del source.labels[path]
    return source


def _why_empty(source: Source) -> str:
    """Names what mmpose needs of a person and nobody in the annotation file has."""
    people = source.coco.annotations if source.coco else []
    missing = [key for key in ('bbox', 'keypoints') if not any(key in one for one in people)]
    if not missing or not people:
        return ''
    return f': nobody in its {len(people)} annotation(s) has {" or ".join(missing)}'


def _check_places(source: Source) -> None:
    """Checks that the root, the folders and the annotation files are there."""
    dataset, key = source.dataset, source.key
    places = {f'{key}.data_root': dataset.data_root}
    for name, path in dataset.data_prefix.items():
        if name != 'seg_map_path' or source.label_folder is not None:
            places[f'{key}.data_prefix.{name}'] = path
    for name in ('ann_file', 'bbox_file'):
        places[f'{key}.{name}'] = getattr(dataset, name, None)
    for name, place in places.items():
        if not isinstance(place, str) or not place:
            continue
        if '://' in place:
            raise SegformerPlusPlusError(f'{name}={place}: only files on this machine are checked')
        if not Path(place).exists():
            raise SegformerPlusPlusError(
                f'data not found: {place} ({name}); expected are {source.layout()}; see '
                f'docs/data.md, or change it with --cfg-options {key}.data_root=...'
            )
