"""Holds the keypoints of the pose datasets: their order, mirrors and limbs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class KeypointSet:
    """Names what a dataset annotates on a person.

    Attributes:
        name: of the dataset, as mmpose's ``dataset_name``.
        names: of the keypoints; the index is the keypoint's id.
        mirrors: (left, right) names that a horizontal flip swaps.
        limbs: names of the two ends.
        upper: names of the keypoints of the upper body.
    """

    name: str
    names: tuple[str, ...]
    mirrors: tuple[tuple[str, str], ...]
    limbs: tuple[tuple[str, str], ...]
    upper: frozenset[str]

    def mirror(self, name: str) -> str:
        """Returns the keypoint that ``name`` becomes in a mirrored image."""
        for left, right in self.mirrors:
            if name in (left, right):
                return right if name == left else left
        return name

    def category(self) -> dict[str, Any]:
        """Returns the category of a COCO keypoint file, which counts keypoints from 1."""
        return {
            'id': 1,
            'name': 'person',
            'supercategory': 'person',
            'keypoints': list(self.names),
            'skeleton': [[self.names.index(end) + 1 for end in limb] for limb in self.limbs],
        }


def _chain(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(pairwise(text.split()))


_JBD_SIDE = ('sho', 'elb', 'wri', 'han', 'hip', 'kne', 'ank', 'hee', 'toe')

JBD = KeypointSet(
    name='jump_broadcast',
    names=tuple(
        'head neck rsho relb rwri rhan lsho lelb lwri lhan '
        'rhip rkne rank rhee rtoe lhip lkne lank lhee ltoe'.split()
    ),
    mirrors=tuple((f'l{part}', f'r{part}') for part in _JBD_SIDE),
    limbs=(
        *_chain('head neck'),
        *_chain('neck rsho relb rwri rhan'),
        *_chain('neck lsho lelb lwri lhan'),
        *_chain('rsho rhip rkne rank rhee rtoe'),
        *_chain('lsho lhip lkne lank lhee ltoe'),
    ),
    upper=frozenset('head neck rsho relb rwri rhan lsho lelb lwri lhan'.split()),
)
"""Jump-Broadcast (Ludwig et al. 2023): triple, high and long jumpers."""

_COCO_SIDE = ('eye', 'ear', 'shoulder', 'elbow', 'wrist', 'hip', 'knee', 'ankle')

COCO = KeypointSet(
    name='coco',
    names=('nose', *(f'{side}_{part}' for part in _COCO_SIDE for side in ('left', 'right'))),
    mirrors=tuple((f'left_{part}', f'right_{part}') for part in _COCO_SIDE),
    limbs=(
        *_chain('left_ankle left_knee left_hip right_hip right_knee right_ankle'),
        *_chain('left_hip left_shoulder right_shoulder right_hip'),
        *_chain('left_shoulder left_elbow left_wrist'),
        *_chain('right_shoulder right_elbow right_wrist'),
        *_chain('left_ear left_eye nose right_eye right_ear'),
        ('left_eye', 'right_eye'),
        ('left_ear', 'left_shoulder'),
        ('right_ear', 'right_shoulder'),
    ),
    upper=frozenset(
        ('nose', *(f'{side}_{part}' for part in _COCO_SIDE[:5] for side in ('left', 'right')))
    ),
)
"""COCO 2017 person keypoints (Lin et al. 2014)."""

_LSP_SIDE = ('ankle', 'knee', 'hip', 'wrist', 'elbow', 'shoulder')

LSP = KeypointSet(
    name='leeds_sports',
    names=(
        *('right_ankle', 'right_knee', 'right_hip', 'left_hip', 'left_knee', 'left_ankle'),
        *('right_wrist', 'right_elbow', 'right_shoulder'),
        *('left_shoulder', 'left_elbow', 'left_wrist'),
        *('neck', 'head_top'),
    ),
    mirrors=tuple((f'left_{part}', f'right_{part}') for part in _LSP_SIDE),
    limbs=(
        *_chain('head_top neck'),
        *_chain('neck right_shoulder right_elbow right_wrist'),
        *_chain('neck left_shoulder left_elbow left_wrist'),
        *_chain('right_shoulder right_hip right_knee right_ankle'),
        *_chain('left_shoulder left_hip left_knee left_ankle'),
        *_chain('right_hip left_hip'),
    ),
    upper=frozenset(
        (
            *('neck', 'head_top'),
            *(f'{side}_{part}' for part in _LSP_SIDE[3:] for side in ('left', 'right')),
        )
    ),
)
"""Leeds Sports Pose and its extended training set (Johnson and Everingham 2010, 2011): athletes."""
