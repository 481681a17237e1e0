"""A segmentor with its test set, or with images that nobody labelled."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from ..errors import SegformerPlusPlusError
from ..inference.segmenter import Segmenter
from ..inference.sources import Picture, load_image
from .data import Pictures, Source, build_test_set, check_limit, find_images
from .segmentation import SegmentationFidelity, Truth

if TYPE_CHECKING:
    from .opening import Settings


def open_model(
    cfg: Config, checkpoint: str | os.PathLike[str], settings: Settings
) -> SegmentationFidelity:
    """See :func:`~.opening.open_fidelity`; what is missing is said before the model is built."""
    init_default_scope('mmseg')
    truth: Truth | None = None
    data: Any = None
    if settings.images is not None:
        pictures = find_images(settings.images, settings.limit)
        count = check_limit(settings.limit, len(pictures), str(settings.images))
    else:
        data = build_test_set(cfg, DATASETS)
        count = check_limit(settings.limit, len(data), 'the test set')
        infos = [data.get_data_info(index) for index in range(count)]
        truth = _read_truth(data, infos, cfg, settings.fine_classes)
        pictures = [_picture(info) for info in infos]
    if truth is None and settings.fine_classes is not None:
        raise SegformerPlusPlusError('fine_classes: there is no ground truth to average over')
    segmenter = Segmenter(cfg, checkpoint, device=settings.device)
    if truth is None:
        source = Source(Pictures(pictures, segmenter.prepare), count)
    else:
        _check_classes(truth, len(segmenter.classes))
        source = Source.of_loader(data, count, cfg.test_dataloader, segmenter.model)
    return SegmentationFidelity(
        segmenter.model, source, truth, len(segmenter.classes), settings.progress
    )


def _read_truth(
    data: Any, infos: list[dict[str, Any]], cfg: Config, fine_classes: tuple[str, ...] | None
) -> Truth | None:
    """How to compare with the ground truth of these images; None, and a warning, without any."""
    paths = [str(info.get('seg_map_path', '')) for info in infos]
    missing = [path for path in paths if '://' not in path and not Path(path).is_file()]
    if missing and len(missing) < len(paths):
        raise SegformerPlusPlusError(
            f'{len(missing)} of {len(paths)} label maps of the test set are missing, first '
            f'{missing[0]!r}'
        )
    if missing or 'gt_sem_seg' not in data[0]['data_samples']:
        where = f' ({missing[0]} is not there)' if missing and missing[0] else ''
        _warn(f'the test set has no labels{where}: accuracy is left out')
        return None
    metric = _iou_metric(cfg)
    truth = Truth(
        tuple(data.metainfo['classes']),
        metric.get('ignore_index', 255),
        metric.get('nan_to_num'),
        fine_classes,
    )
    # as a rule, the first image tells
    if not any(_is_labelled(data[index]['data_samples'], truth) for index in range(len(infos))):
        _warn(f'no pixel of the {len(infos)} images is labelled: accuracy is left out')
        return None
    return truth


def _is_labelled(sample: Any, truth: Truth) -> bool:
    labels = sample.gt_sem_seg.data
    return bool(((labels != truth.ignore_index) & (labels < len(truth.classes))).any())


def _warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)


def _iou_metric(cfg: Config) -> Mapping[str, Any]:
    """The config's settings of mmseg's metric; empty if it tests with another one."""
    evaluators = cfg.get('test_evaluator') or []
    for each in evaluators if isinstance(evaluators, list | tuple) else [evaluators]:
        if str(each.get('type')).endswith('IoUMetric'):
            found: Mapping[str, Any] = each
            return found
    return {}


def _picture(info: Mapping[str, Any]) -> Picture:
    path = Path(info['img_path'])
    return Picture(str(path), lambda: load_image(path), path=path)


def _check_classes(truth: Truth, count: int) -> None:
    if len(truth.classes) != count:
        raise SegformerPlusPlusError(
            f'the model tells {count} classes apart, but the test set has {len(truth.classes)}'
        )
