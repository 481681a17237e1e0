"""The Jump-Broadcast dataset: 20 keypoints of triple, high and long jumpers.

Ludwig, Lorenz, Schön, Lienhart: "All Keypoints You Need: Detecting Arbitrary Keypoints on the Body
of Triple, High, and Long Jump Athletes" (2023).
"""

from __future__ import annotations

from typing import Any

from mmpose.datasets.datasets.base import BaseCocoStyleDataset
from mmpose.registry import DATASETS

from ..datasets.keypoints import JBD

_MIDDLE = [255, 221, 51]
_LEFT = [51, 255, 102]
_RIGHT = [255, 102, 51]
"""RGB: bright on grass, sand and track alike; warm is the athlete's right."""


def _colour(*names: str) -> list[int]:
    """Left and right limbs each in one colour; what belongs to both sides in the middle's."""
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


@DATASETS.register_module()
class JumpBroadcastDataset(BaseCocoStyleDataset):
    """Jump-Broadcast as ``tools/dataset_converters/jbd.py`` writes it. Arguments as in mmpose's
    ``CocoDataset``.

    The keypoints: 0 head, 1 neck; right 2 shoulder, 3 elbow, 4 wrist, 5 hand; left 6 to 9
    likewise; right 10 hip, 11 knee, 12 ankle, 13 heel, 14 toe; left 15 to 19 likewise.
    """

    METAINFO: dict[str, Any] = _metainfo()
