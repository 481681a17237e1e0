"""Measures what strategies cost a pose estimator: keypoints that move."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmpose.registry import DATASETS

from ...errors import SegformerPlusPlusError
from ...inference.pose import PoseEstimator, whole_image
from ...loading.datasets import test_dataset
from ...pose import BoxPCK
from .base import Fidelity, Source
from .opening import Options, Pictures, build_test_set, find_images, source_of_test_set


@dataclass(frozen=True)
class Person:
    """Holds the prediction for one person.

    Attributes:
        keypoints: (K, 2) in pixels of the image.
        counted: (K,) bool, which keypoints are annotated; all of them without ground truth.
        result: what ``BoxPCK`` keeps, if there is ground truth.
    """

    keypoints: np.ndarray
    counted: np.ndarray
    result: dict[str, Any] | None


class PoseFidelity(Fidelity[Person]):
    """Measures a top-down estimator of mmpose on people."""

    unit = 'person'
    timed = 'cut-out person to heatmaps, without flip test'

    def __init__(self, model: Any, source: Source, has_truth: bool, progress: bool = True) -> None:
        super().__init__(model, source, has_truth, progress)
        self.main_measure = 'PCK@0.05' if has_truth else 'shift'
        self._metric = BoxPCK()

    @property
    def pictures(self) -> Sequence[Hashable]:
        """Returns the path of the picture that shows each person."""
        info = getattr(self._source.data, 'get_data_info', None)
        if info is None:  # a folder, whose pictures show one person each
            return super().pictures
        return [info(index).get('img_path', index) for index in self._indices]

    def describe(self) -> str:
        people = f'{self.num_images} {"people" if self.num_images > 1 else "person"}'
        shift = 'mean distance of a keypoint to where it is without merging, in pixels of the image'
        if not self.has_truth:
            return f'{people} without ground truth; shift: {shift}'
        return f'{people}; PCK by the box; shift: {shift}, annotated keypoints'

    def _predict(self, indices: Sequence[int]) -> Iterator[Person]:
        return map(self._person, self._samples(indices))

    def _person(self, sample: Any) -> Person:
        keypoints = np.asarray(sample.pred_instances.keypoints)[0]
        if not self.has_truth:
            return Person(keypoints, np.ones(len(keypoints), dtype=bool), None)
        self._metric.process([], [sample.to_dict()])
        result = self._metric.results.pop()
        return Person(keypoints, result['mask'][0], result)

    def _summarise(self, pairs: Iterable[tuple[Person, Person]]) -> dict[str, float]:
        results, distances = [], []
        for found, reference in pairs:
            moved = np.linalg.norm(found.keypoints - reference.keypoints, axis=-1)
            distances.append(moved[found.counted])
            if found.result is not None:
                results.append(found.result)
        all_distances = np.concatenate(distances)
        if not len(all_distances):
            raise SegformerPlusPlusError('shift: none of these people has an annotated keypoint')
        values = {'shift': float(all_distances.mean())}
        if not self.has_truth:
            return values
        accuracy = self._metric.compute_metrics(results)
        return {**{name: 100 * value for name, value in accuracy.items()}, **values}

    def _timed_call(self, model: Any) -> Callable[[], Any]:
        return partial(model, self._prepared(model)['inputs'], None, mode='tensor')


def open_model(
    cfg: Config, checkpoint: str | os.PathLike[str] | None, options: Options
) -> PoseFidelity:
    """Opens the fidelity of a pose config; what is missing is said before the model is built."""
    init_default_scope('mmpose')
    if options.fine_classes is not None:
        raise SegformerPlusPlusError('fine_classes is for segmentation')
    if options.images is not None:
        return _of_images(cfg, checkpoint, options)
    data = build_test_set(cfg, DATASETS)
    count = options.count(len(data))
    has_truth = _has_truth(cfg, data, count)
    estimator = PoseEstimator(cfg, checkpoint, device=options.device)
    source = source_of_test_set(cfg, data, count, estimator.model)
    return PoseFidelity(estimator.model, source, has_truth, options.progress)


def _of_images(
    cfg: Config, checkpoint: str | os.PathLike[str] | None, options: Options
) -> PoseFidelity:
    pictures = find_images(options, cfg)
    estimator = PoseEstimator(cfg, checkpoint, device=options.device)

    def prepare(name: str, image: np.ndarray) -> dict[str, Any]:
        return estimator.prepare(name, image, whole_image(image)[0])

    source = Source(Pictures(pictures, prepare), len(pictures))
    return PoseFidelity(estimator.model, source, has_truth=False, progress=options.progress)


def _has_truth(cfg: Config, data: Any, count: int) -> bool:
    """Returns whether one of the first people is annotated, and warns if none is."""
    # with detected boxes, mmpose calls keypoints visible that nobody annotated
    detected = bool(test_dataset(cfg).get('bbox_file'))
    if not detected and any(
        np.any(data.get_data_info(index).get('keypoints_visible', 0)) for index in range(count)
    ):
        return True
    what = 'detected boxes have' if detected else f'the {count} people have'
    message = f'{what} no annotated keypoints: accuracy is left out'
    print_log(message, logger='current', level=logging.WARNING)
    return False
