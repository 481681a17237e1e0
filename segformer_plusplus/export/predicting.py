"""Records what predicting pictures takes beside the graph: how they are prepared and read out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.config import Config

from ..loading.datasets import test_dataset
from ..registration import component_name

STEPS: dict[str, tuple[str, ...]] = {
    'Resize': ('scale', 'keep_ratio', 'interpolation', 'backend'),
    'ResizeShortestEdge': ('scale', 'max_size'),
    'PackSegInputs': (),
    'GetBBoxCenterScale': ('padding',),
    'TopdownAffine': ('input_size', 'use_udp'),
    'PackPoseInputs': (),
}
"""Steps of test pipelines that a file can hold, each with what is recorded of it."""

FLIP_TEST = ('flip_test', 'flip_mode', 'shift_heatmap')
"""What is recorded of a pose estimator's ``test_cfg``."""


def describe_predicting(model: Any) -> dict[str, Any]:
    """Returns what a reader of the file needs to predict as the model does, as JSON holds it.

    'pipeline' has the steps of the model's test pipeline after those that read files; 'left_out'
    names the steps that no file can hold.
    """
    config = getattr(model, 'cfg', None)
    steps, left_out = _describe_pipeline(config, model.backbone.in_channels)
    meta = getattr(model, 'dataset_meta', None) or {}
    described: dict[str, Any] = dict(pipeline=steps, left_out=left_out)
    if hasattr(model, 'decode_head'):
        dataset = test_dataset(config)
        return described | dict(
            scope='mmseg',
            num_classes=int(model.decode_head.num_classes),
            align_corners=bool(model.decode_head.align_corners),
            palette=_plain(meta.get('palette')),
            reduce_zero_label=dataset.get('reduce_zero_label', meta.get('reduce_zero_label')),
        )
    test_cfg = model.test_cfg or {}
    return described | dict(
        scope='mmpose',
        codec=_describe_codec(model),
        test_cfg={key: test_cfg[key] for key in FLIP_TEST if key in test_cfg},
        keypoints=_describe_keypoints(meta),
    )


def _describe_pipeline(
    config: Config | None, channels: int
) -> tuple[list[dict[str, Any]], list[str]]:
    kept, left_out = [], [] if channels in (1, 3) else [f'reading images of {channels} channels']
    for step in test_dataset(config).get('pipeline') or ():
        name = component_name(step.get('type'))
        if 'Load' in name:
            continue
        if name in STEPS:
            kept.append({'type': name, **{k: _plain(step[k]) for k in STEPS[name] if k in step}})
        else:
            left_out.append(name)
    return kept, left_out


def _describe_codec(model: Any) -> dict[str, Any] | None:
    """Returns the settings of the codec, as the config or the codec itself has them."""
    decoder = getattr(model.head, 'decoder', None)
    if decoder is None:
        return None
    given = ((getattr(model, 'cfg', None) or {}).get('model') or {}).get('head') or {}
    settings: Mapping[str, Any] = given.get('decoder') or {}
    if not settings:
        names = inspect.signature(type(decoder).__init__).parameters
        settings = {name: getattr(decoder, name) for name in names if hasattr(decoder, name)}
    return {**_plain(settings), 'type': type(decoder).__name__}


def _describe_keypoints(meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns mmpose's parsed meta data of a data set."""
    if not meta:
        return None
    from mmpose.datasets.datasets.utils import parse_pose_metainfo

    parsed = meta if 'num_keypoints' in meta else parse_pose_metainfo(dict(meta))
    plain: dict[str, Any] = _plain(parsed)
    return plain


def _plain(value: Any) -> Any:
    """Returns arrays and tuples as lists, and keys as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return list(map(_plain, value)) if isinstance(value, list | tuple | set) else value
