"""Compares a config's model and metrics with its data: what would end a training, or its test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import METRICS

from segformer_plusplus.registration import component_names
from tools.dataset_checks.findings import Finding
from tools.dataset_checks.sources import Source

_NEEDED = 'area', 'iscrowd', 'num_keypoints'
"""What CocoMetric takes from an annotation beside box and keypoints."""


def find_misfits(cfg: Config, sources: Sequence[Source]) -> Iterator[Finding]:
    """Yields where the heads of the model, or the metrics, want other data than there are.

    Args:
        cfg: A config of mmseg or mmpose.
        sources: Its data.
    """
    model = cfg.get('model') or {}
    for source in sources:
        path = source.dataset.ann_file or source.image_folder or ''
        for key in ('decode_head', 'auxiliary_head', 'head'):
            for head in _listed(model.get(key)):
                detail = _of_head(key, head, source.dataset.metainfo)
                if detail:
                    yield source.finding('model', path, detail)
        if source.coco is not None:
            metrics = _listed(cfg.get(f'{source.split}_evaluator'))
            yield from _of_metrics(metrics, source, cfg.get('default_scope'))


def _of_head(key: str, head: Any, info: dict[str, Any]) -> str:
    """Says where a head predicts another number of things than the data have."""
    for name, has in (
        ('num_classes', len(info.get('classes') or ())),
        ('out_channels', info.get('num_keypoints')),
    ):
        wanted = head.get(name) if (name == 'num_classes') == (key != 'head') else None
        if key != 'head' and head.get('out_channels', wanted) == 1:
            continue  # of one logit, a background may be a class or not
        # some codecs of poses need several channels for a keypoint
        if wanted and has and (wanted % has if key == 'head' else wanted != has):
            what = 'classes' if key != 'head' else 'keypoints'
            return f'model.{key}.{name} is {wanted}, but the data have {has} {what}'
    return ''


def _of_metrics(metrics: Sequence[Any], source: Source, scope: str | None) -> Iterator[Finding]:
    assert source.coco is not None
    people = [one for one in source.coco.annotations if 'keypoints' in one and 'bbox' in one]
    for metric in metrics:
        if 'CocoMetric' not in component_names(metric.get('type'), METRICS, scope):
            continue
        for key in _NEEDED if metric.get('use_area', True) else _NEEDED[1:]:
            missing = sum(key not in one for one in people)
            if missing:
                hint = ', or set use_area=False in it' if key == 'area' else ''
                detail = f'{missing} annotation(s) have no {key}, which CocoMetric needs: add it'
                yield source.finding('model', source.dataset.ann_file, detail + hint)


def _listed(parts: Any) -> list[Any]:
    if parts is None:
        return []
    return list(parts) if isinstance(parts, list | tuple) else [parts]
