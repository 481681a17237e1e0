"""Holds the Jump-Broadcast dataset, and loads the images of mmpose's pipelines.

20 keypoints of triple, high and long jumpers. Ludwig, Lorenz, Schön, Lienhart: "All Keypoints You
Need: Detecting Arbitrary Keypoints on the Body of Triple, High, and Long Jump Athletes" (2023).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mmpose.datasets.datasets.base import BaseCocoStyleDataset
from mmpose.registry import DATASETS, TRANSFORMS

from ..loading.images import CheckedLoadImageFromFile
from .keypoints import JBD

_MIDDLE = [255, 221, 51]
_LEFT = [51, 255, 102]
_RIGHT = [255, 102, 51]
"""RGB: bright on grass, sand and track alike; warm is the athlete's right."""


def _colour(*names: str) -> list[int]:
    """Returns the colour of the side on which all these keypoints lie, else that of the middle."""
    sides = {name for name in names if JBD.mirror(name) != name}
    if not sides or len({name[0] for name in sides}) > 1:
        return _MIDDLE
    return _LEFT if next(iter(sides)).startswith('l') else _RIGHT


def _metainfo() -> dict[str, Any]:
    return dict(
        dataset_name=JBD.name,
        paper_info=dict(
            author='Ludwig, Katja and Lorenz, Julian and Sch{\\"o}n, Robin and Lienhart, Rainer',
            title='All Keypoints You Need: Detecting Arbitrary Keypoints on the Body of Triple, '
            'High, and Long Jump Athletes',
            year='2023',
        ),
        keypoint_info={
            index: dict(
                name=name,
                id=index,
                color=_colour(name),
                type='upper' if name in JBD.upper else 'lower',
                swap=JBD.mirror(name) if JBD.mirror(name) != name else '',
            )
            for index, name in enumerate(JBD.names)
        },
        skeleton_info={
            index: dict(link=limb, id=index, color=_colour(*limb))
            for index, limb in enumerate(JBD.limbs)
        },
        joint_weights=[1.0] * len(JBD.names),
        sigmas=[0.1] * len(JBD.names),
    )


@DATASETS.register_module(force=True)
class JumpBroadcastDataset(BaseCocoStyleDataset):
    """Reads Jump-Broadcast as ``tools/dataset_converters/jbd.py`` writes it.

    It takes the arguments of mmpose's ``CocoDataset``.

    The keypoints: 0 head, 1 neck; right 2 shoulder, 3 elbow, 4 wrist, 5 hand; left 6 to 9
    likewise; right 10 hip, 11 knee, 12 ankle, 13 heel, 14 toe; left 15 to 19 likewise.
    """

    METAINFO: dict[str, Any] = _metainfo()


@TRANSFORMS.register_module(force=True)
class CheckedLoadImage(CheckedLoadImageFromFile):
    """Is mmpose's ``LoadImage``, but fails on a damaged file, and says which.

    As there, an image that is given as an array in ``results['img']`` (BGR) is taken as it is,
    which ``inference_topdown`` and the inferencers need.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Reads ``results['img_path']``, unless there is an ``img``; (H, W, 3) uint8 BGR."""
        if 'img' not in results:
            return super().transform(results)
        image: np.ndarray = results['img']
        results.setdefault('img_path', None)
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results
