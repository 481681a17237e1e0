"""Finds before the first iteration what would end a training at its first validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.visualization import Visualizer
from torch import nn

from ..arguments import NUMBER, Kind
from ..errors import SegformerPlusPlusError
from ..libraries import require
from ..loading.leave_out import leaves_of, read_coco
from ..registration import component_name

_BACKENDS = dict(
    TensorboardVisBackend='tensorboard',
    WandbVisBackend='wandb',
    MLflowVisBackend='mlflow',
    ClearMLVisBackend='clearml',
    NeptuneVisBackend='neptune',
    DVCLiveVisBackend='dvclive',
    AimVisBackend='aim',
)
"""What mmengine's backends import when they first have something to write."""

_FROM_ONE = Kind('a number >= 1', lambda value: NUMBER.allows(value) and value >= 1)
_NUMBERS = {
    'train_cfg.max_iters': _FROM_ONE,
    'train_cfg.max_epochs': _FROM_ONE,
    'train_cfg.val_interval': _FROM_ONE,
    'default_hooks.checkpoint.interval': NUMBER,  # -1: never
    'optim_wrapper.clip_grad.max_norm': NUMBER,
}
"""What mmengine would first calculate with in the course of a training."""

_HEATMAPS = 'HeatmapHead', 'SegformerHeatmapHead'


def check_phases(cfg: Config) -> None:
    """Checks that a config has a model, and all parts of training, validation and test, or none.

    Raises:
        SegformerPlusPlusError: names those that are there and those that are missing.
    """
    if cfg.get('model') is None:
        raise SegformerPlusPlusError(f'{cfg.filename or "the config"} has no model')
    last_parts = dict(train='optim_wrapper', val='val_evaluator', test='test_evaluator')
    for phase, last in last_parts.items():
        parts = f'{phase}_dataloader', f'{phase}_cfg', last
        missing = [name for name in parts if cfg.get(name) is None]
        if 0 < len(missing) < len(parts):
            there = ', '.join(name for name in parts if name not in missing)
            raise SegformerPlusPlusError(
                f'the config has {there}, but no {" and no ".join(missing)}; {phase} needs all of '
                'them, or set all to None'
            )


def check_numbers(cfg: Config) -> None:
    """Checks the numbers that a training would only stumble over when it comes to them.

    Raises:
        SegformerPlusPlusError: names the key and what is allowed.
    """
    for key, kind in _NUMBERS.items():
        value: Any = cfg
        for name in key.split('.'):
            value = value.get(name) if isinstance(value, Config | dict) else None
        if value is not None and not kind.allows(value):
            raise SegformerPlusPlusError(f'{key}={value!r} is not {kind.words}')


def check_backends(visualizer: Visualizer) -> None:
    """Checks that the libraries of a visualizer's backends are installed.

    Raises:
        MissingDependencyError: says how to install one.
    """
    for backend in getattr(visualizer, '_vis_backends', {}).values():
        for kind in map(component_name, type(backend).__mro__):
            if kind in _BACKENDS:
                require(_BACKENDS[kind], kind)


def check_outputs(dataset: Any, model: nn.Module, key: str) -> None:
    """Checks that a model tells as many classes, or keypoints, apart as a dataset has.

    Args:
        dataset: built.
        model: not wrapped.
        key: of the data loader in the config.

    Raises:
        SegformerPlusPlusError: names both numbers.
    """
    meta = getattr(dataset, 'metainfo', None) or {}
    decode_head, head = (getattr(model, name, None) for name in ('decode_head', 'head'))
    for last in decode_head if isinstance(decode_head, nn.ModuleList) else [decode_head]:
        there, classes = getattr(last, 'num_classes', None), meta.get('classes')
        # of one logit, a background may be a class or not
        if there and classes and len(classes) != there and getattr(last, 'out_channels', 0) != 1:
            raise SegformerPlusPlusError(
                f'model.decode_head.num_classes={there}, but the data of {key} has {len(classes)} '
                'classes (its metainfo); give both the same number'
            )
    there, points = getattr(head, 'out_channels', None), meta.get('num_keypoints')
    if type(head).__name__ in _HEATMAPS and points and there % points:  # some codecs need several
        raise SegformerPlusPlusError(
            f'model.head.out_channels={there}, but the people of {key} have {points} keypoints; '
            'give both the same number'
        )


def check_metrics(metrics: Sequence[Any], dataset: Any, key: str) -> None:
    """Checks that a dataset has what the metrics of a validation or test read.

    Args:
        metrics: of the evaluator.
        dataset: built.
        key: of the data loader in the config.

    Raises:
        SegformerPlusPlusError: names the metric and what is missing.
    """
    for metric in metrics:
        names = list(map(component_name, type(metric).__mro__))
        if 'IoUMetric' in names:
            _check_labels(dataset, key, None if metric.format_only else names[0])
        elif 'CocoMetric' in names:
            _check_people(dataset, key, metric)
        elif 'BoxPCK' in names:
            people = map(dataset.get_data_info, range(len(dataset)))
            given = (each.get('keypoints_visible') for each in people)
            if not any(one is None or metric.counted(one).any() for one in given):
                raise SegformerPlusPlusError(
                    f'{key}: {metric.nothing}, which {names[0]} needs; check its annotation file'
                )


def check_best(hook: CheckpointHook, metrics: Sequence[Any]) -> None:
    """Checks that what ``save_best`` names is among the metrics, as far as their names are known.

    Args:
        hook: of the training.
        metrics: of the evaluator of the validation.

    Raises:
        SegformerPlusPlusError: says what there is.
    """
    known = [_names_of(metric) for metric in metrics]
    wanted = getattr(hook, 'key_indicators', None) or []
    there = [name for names in known for name in names or ()]
    for name in wanted:
        if name not in ('auto', *there) and None not in known:
            raise SegformerPlusPlusError(
                f'default_hooks.checkpoint.save_best={name!r} is no metric of val_evaluator, which '
                f'has {", ".join(there)}'
            )


def _names_of(metric: Any) -> list[str] | None:
    """Returns the names that a metric gives its values, None where only the values tell."""
    kind = component_name(type(metric))
    if kind in ('BoxPCK', 'TorsoPCK'):
        names = list(metric.thresholds)
    elif kind == 'IoUMetric' and not metric.format_only:
        one = torch.ones(1)
        found = metric.total_area_to_metrics(one, one, one, one, metric.metrics)
        names = [name if name == 'aAcc' else f'm{name}' for name in found]
    else:
        return None
    return [f'{metric.prefix}/{name}' if metric.prefix else name for name in names]


def _check_labels(dataset: Any, key: str, metric: str | None) -> None:
    try:
        sample = dataset[0]['data_samples']
    except KeyError as error:
        if error.args != ('seg_map_path',):
            raise
        raise SegformerPlusPlusError(
            f'{key}: its pipeline loads labels, but its data_prefix has no seg_map_path'
        ) from error
    if metric is None:
        return
    views = sample if isinstance(sample, list) else [sample]  # of test-time augmentation
    if any('gt_sem_seg' not in view for view in views):
        raise SegformerPlusPlusError(
            f'{key}: its pipeline loads no labels, which {metric} needs: add '
            "dict(type='CheckedLoadAnnotations', num_classes=...) after Resize"
        )
    labels, image = tuple(views[0].gt_sem_seg.shape), views[0].get('ori_shape')
    if len(views) == 1 and image and labels != tuple(image[:2]):
        raise SegformerPlusPlusError(
            f'{key}: its labels are {labels}, predictions are {tuple(image[:2])} as the images: '
            'load labels after Resize'
        )


def _check_people(dataset: Any, key: str, metric: Any) -> None:
    leaves = [leaf for leaf in leaves_of(dataset) if getattr(leaf, 'ann_file', None)]
    files = metric.ann_file or ', '.join(leaf.ann_file for leaf in leaves)
    if metric.coco is None:  # it converts what the data set holds
        people = [each for leaf in leaves if (coco := read_coco(leaf)) for each in coco.annotations]
    else:
        people = list(metric.coco.anns.values())
    needed = ['bbox', 'num_keypoints', *(['area'] if metric.use_area else [])]
    missing = [name for name in needed if any(name not in each for each in people)]
    if missing:
        raise SegformerPlusPlusError(
            f'{key}: not every person in {files} has {", ".join(missing)}, which '
            f'{type(metric).__name__} needs; write them into the file'
            + (', or do without area by use_area=False' if 'area' in missing else '')
        )
