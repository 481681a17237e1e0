"""Holds Jump-Broadcast and Leeds Sports Pose, and loads the images of mmpose's pipelines.

Jump-Broadcast: 20 keypoints of triple, high and long jumpers (Ludwig et al. 2023). Leeds Sports
Pose Extended: 14 keypoints of athletes (Johnson and Everingham, CVPR 2011).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mmpose.datasets.datasets.base import BaseCocoStyleDataset
from mmpose.registry import DATASETS, TRANSFORMS
from numpy.typing import NDArray

from ..loading.images import CheckedLoadImageFromFile
from .keypoints import JBD, LSP, KeypointSet

_MIDDLE = [255, 221, 51]
_LEFT = [51, 255, 102]
_RIGHT = [255, 102, 51]
"""RGB: bright on grass, sand and track alike; warm is the athlete's right."""


def _colour(keypoints: KeypointSet, *names: str) -> list[int]:
    """Returns the colour of the side on which all these keypoints lie, else that of the middle."""
    sides = {name for name in names if keypoints.mirror(name) != name}
    if not sides or len({name[0] for name in sides}) > 1:
        return _MIDDLE
    return _LEFT if next(iter(sides)).startswith('l') else _RIGHT


def _metainfo(keypoints: KeypointSet, author: str, title: str, year: str) -> dict[str, Any]:
    return dict(
        dataset_name=keypoints.name,
        paper_info=dict(author=author, title=title, year=year),
        keypoint_info={
            index: dict(
                name=name,
                id=index,
                color=_colour(keypoints, name),
                type='upper' if name in keypoints.upper else 'lower',
                swap=keypoints.mirror(name) if keypoints.mirror(name) != name else '',
            )
            for index, name in enumerate(keypoints.names)
        },
        skeleton_info={
            index: dict(link=limb, id=index, color=_colour(keypoints, *limb))
            for index, limb in enumerate(keypoints.limbs)
        },
        joint_weights=[1.0] * len(keypoints.names),
        sigmas=[0.1] * len(keypoints.names),
    )


@DATASETS.register_module(force=True)
class JumpBroadcastDataset(BaseCocoStyleDataset):
    """Reads Jump-Broadcast as ``tools/dataset_converters/jbd.py`` writes it.

    It takes the arguments of mmpose's ``CocoDataset``.

    The keypoints: 0 head, 1 neck; right 2 shoulder, 3 elbow, 4 wrist, 5 hand; left 6 to 9
    likewise; right 10 hip, 11 knee, 12 ankle, 13 heel, 14 toe; left 15 to 19 likewise.
    """

    METAINFO: dict[str, Any] = _metainfo(
        JBD,
        author='Ludwig, Katja and Lorenz, Julian and Sch{\\"o}n, Robin and Lienhart, Rainer',
        title='All Keypoints You Need: Detecting Arbitrary Keypoints on the Body of Triple, '
        'High, and Long Jump Athletes',
        year='2023',
    )


@DATASETS.register_module(force=True)
class LeedsSportsDataset(BaseCocoStyleDataset):
    """Reads Leeds Sports Pose Extended as ``tools/dataset_converters/lsp.py`` writes it.

    It takes the arguments of mmpose's ``CocoDataset``.

    The keypoints: 0 right ankle, 1 knee, 2 hip; left 3 hip, 4 knee, 5 ankle; right 6 wrist,
    7 elbow, 8 shoulder; left 9 shoulder, 10 elbow, 11 wrist; 12 neck, 13 top of the head.
    """

    METAINFO: dict[str, Any] = _metainfo(
        LSP,
        author='Johnson, Sam and Everingham, Mark',
        title='Learning Effective Human Pose Estimation from Inaccurate Annotation',
        year='2011',
    )


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
        image: NDArray[Any] = results['img']
        results.setdefault('img_path', None)
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results
