"""A pose estimator with its test set, or with images of one person each."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmpose.registry import DATASETS

from ..errors import SegformerPlusPlusError
from ..inference.models import test_dataset
from ..inference.pose import PoseEstimator, whole_image
from .data import Pictures, Source, build_test_set, check_limit, find_images
from .pose import PoseFidelity

if TYPE_CHECKING:
    from .opening import Settings


def open_model(cfg: Config, checkpoint: str | os.PathLike[str], settings: Settings) -> PoseFidelity:
    """See :func:`~.opening.open_fidelity`; what is missing is said before the model is built."""
    init_default_scope('mmpose')
    if settings.fine_classes is not None:
        raise SegformerPlusPlusError('fine_classes is for segmentation')
    if settings.images is not None:
        return _of_images(cfg, checkpoint, settings)
    data = build_test_set(cfg, DATASETS)
    count = check_limit(settings.limit, len(data), 'the test set')
    has_truth = _has_truth(cfg, data, count)
    estimator = PoseEstimator(cfg, checkpoint, device=settings.device)
    source = Source.of_loader(data, count, cfg.test_dataloader, estimator.model)
    return PoseFidelity(estimator.model, source, has_truth, settings.progress)


def _of_images(cfg: Config, checkpoint: str | os.PathLike[str], settings: Settings) -> PoseFidelity:
    pictures = find_images(str(settings.images), settings.limit)
    count = check_limit(settings.limit, len(pictures), str(settings.images))
    estimator = PoseEstimator(cfg, checkpoint, device=settings.device)

    def prepare(name: str, image: np.ndarray) -> dict[str, Any]:
        return estimator.prepare(name, image, whole_image(image)[0])

    source = Source(Pictures(pictures, prepare), count)
    return PoseFidelity(estimator.model, source, has_truth=False, progress=settings.progress)


def _has_truth(cfg: Config, data: Any, count: int) -> bool:
    """Whether one of the first people is annotated; a warning if none is."""
    # with detected boxes, mmpose calls keypoints visible that nobody annotated
    detected = bool(test_dataset(cfg).get('bbox_file'))
    if not detected and any(
        np.any(data.get_data_info(index).get('keypoints_visible', 0)) for index in range(count)
    ):
        return True
    what = 'detected boxes have' if detected else f'the {count} people have'
    print_log(
        f'{what} no annotated keypoints: accuracy is left out',
        logger='current',
        level=logging.WARNING,
    )
    return False
