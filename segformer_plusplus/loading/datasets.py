"""Finds the data sets in configs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config, ConfigDict


def datasets_of(cfg: Config, split: str) -> Iterator[tuple[str, ConfigDict]]:
    """Yields the innermost datasets in wrappers such as RepeatDataset, each with its key."""
    loader = cfg.get(f'{split}_dataloader') or {}
    yield from _innermost(loader.get('dataset'), f'{split}_dataloader.dataset')


def test_dataset(config: Config | None) -> Mapping[str, Any]:
    """Returns the innermost data set that a config tests on, or the first; empty without one."""
    if config is None:
        return {}
    outer = (config.get('test_dataloader') or {}).get('dataset') or {}
    # mmpose's CombinedDataset has the pipeline of those inside
    found = *(each for _, each in datasets_of(config, 'test')), outer
    return next((each for each in found if each.get('pipeline')), found[0])


def _innermost(dataset: Any, key: str) -> Iterator[tuple[str, ConfigDict]]:
    if not isinstance(dataset, dict):
        return
    if 'dataset' in dataset:
        yield from _innermost(dataset['dataset'], f'{key}.dataset')
    elif 'datasets' in dataset:
        for index, part in enumerate(dataset['datasets']):
            yield from _innermost(part, f'{key}.datasets.{index}')
    else:
        yield key, dataset
