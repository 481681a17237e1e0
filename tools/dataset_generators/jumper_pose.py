"""The poses jumpers go through, as joint angles in degrees within human ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType

import numpy as np

TRUNK_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        'lumbar': (-35, 60),  # forward; below 0 the back arches
        'thorax': (-20, 40),  # forward
        'bend': (-20, 20),  # to the right
        'twist': (-35, 35),  # right shoulder forward
        'neck': (-45, 45),  # forward
        'turn': (-50, 50),  # face to the left
    }
)
"""Lowest and highest angle of every joint of the trunk."""

LIMB_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        'hip': (-30, 125),  # thigh forward
        'hip_out': (-15, 40),  # thigh away from the other
        'hip_turn': (-30, 30),  # knee inwards
        'knee': (0, 145),  # heel to the seat: never forward
        'ankle': (-25, 50),  # toes down
        'shoulder': (-60, 180),  # arm forward and up
        'shoulder_out': (-5, 100),  # arm away from the body
        'shoulder_turn': (-40, 70),  # bent forearm inwards
        'elbow': (0, 145),  # hand to the shoulder: never backward
        'wrist': (-45, 45),  # palm to the forearm
    }
)
"""Lowest and highest angle of every joint of one arm and leg, the same on both sides."""

Angles = dict[str, float]


@dataclass(frozen=True)
class Pose:
    """All joint angles.

    Attributes:
        pitch: How far the whole body leans forward; -90 lies on its back in the air.
        trunk: Angle of each name in `TRUNK_RANGES`.
        right: Angle of each name in `LIMB_RANGES`.
        left: The same of the left arm and leg.
    """

    pitch: float
    trunk: Angles
    right: Angles
    left: Angles

    def mirrored(self) -> Pose:
        """The pose in a mirror: sides swapped, and what turns to a side turns to the other."""
        trunk = {
            name: -angle if name in ('bend', 'twist', 'turn') else angle
            for name, angle in self.trunk.items()
        }
        return replace(self, trunk=trunk, right=self.left, left=self.right)


# Key poses: the pitch, the trunk, and for each limb joint the angle on the side that takes off and
# on the other side. What is not named is at rest.
_REST = dict(hip=0, hip_out=4, hip_turn=0, knee=8, ankle=5, shoulder=0)

_REST |= dict(shoulder_out=10, shoulder_turn=15, elbow=20, wrist=5)

_KEYS: dict[str, dict[str, float | tuple[float, float]]] = {
    'stand': dict(pitch=0, hip=(-3, 6), shoulder=(-5, 8), elbow=(12, 18)),
    'ready': dict(
        pitch=20, lumbar=20, neck=-20, hip=(20, 50), knee=(15, 45), shoulder=(35, -20), elbow=30
    ),
    'drive': dict(
        pitch=10,
        twist=12,
        hip=(-20, 80),
        knee=(12, 95),
        ankle=(38, 0),
        shoulder=(48, -45),
        elbow=90,
    ),
    'float': dict(
        pitch=8, twist=6, hip=(-22, 52), knee=(75, 38), ankle=(30, 0), shoulder=(35, -38), elbow=92
    ),
    'support': dict(
        pitch=7, hip=(8, 22), knee=(120, 22), ankle=(20, -8), shoulder=(-8, 6), elbow=88
    ),
    'plant': dict(
        pitch=-8, hip=(36, -12), knee=(12, 80), ankle=(-5, 25), shoulder=(-42, 30), elbow=70
    ),
    'takeoff': dict(
        pitch=2, twist=8, hip=(-20, 88), knee=(4, 100), ankle=(45, 5), shoulder=(112, -25), elbow=78
    ),
    'step': dict(
        pitch=6, hip=(-28, 88), knee=(85, 88), ankle=(25, 0), shoulder=(62, -40), elbow=(45, 40)
    ),
    'hop': dict(
        pitch=5, hip=(85, -15), knee=(75, 60), ankle=(0, 25), shoulder=(70, 60), elbow=(40, 50)
    ),
    'hang': dict(
        pitch=-6,
        lumbar=-22,
        thorax=-10,
        neck=-10,
        hip=(-18, -8),
        knee=(78, 62),
        ankle=35,
        shoulder=(168, 150),
        shoulder_out=20,
    ),
    'hitch': dict(
        pitch=-6, hip=(-22, 82), knee=(45, 22), ankle=(30, 0), shoulder=(150, -35), shoulder_out=25
    ),
    'pike': dict(
        pitch=2,
        lumbar=35,
        thorax=15,
        neck=-15,
        hip=(98, 90),
        knee=(18, 26),
        ankle=-10,
        shoulder=(85, 70),
    ),
    'touch': dict(
        pitch=-6,
        lumbar=38,
        thorax=20,
        neck=-10,
        hip=(92, 84),
        knee=(55, 62),
        ankle=-12,
        shoulder=(40, 15),
    ),
    'squat': dict(
        pitch=22, lumbar=28, neck=-20, hip=(95, 88), knee=(108, 100), ankle=-18, shoulder=(55, 30)
    ),
    'rise': dict(
        pitch=-18,
        hip=(-15, 85),
        knee=(15, 105),
        ankle=(40, 10),
        shoulder=(150, 80),
        elbow=(40, 70),
    ),
    'arch': dict(
        pitch=-80,
        lumbar=-26,
        thorax=-14,
        neck=-22,
        hip=(-20, -14),
        hip_out=14,
        knee=(82, 74),
        ankle=25,
        shoulder=(25, 5),
        shoulder_out=28,
    ),
    'clear': dict(
        pitch=-105,
        lumbar=25,
        thorax=12,
        neck=25,
        hip=(75, 68),
        hip_out=12,
        knee=(40, 30),
        ankle=20,
        shoulder=(30, 15),
        shoulder_out=35,
    ),
}

_RUN = ('drive', 'float', 'support'), ('plant', 'takeoff')
_AROUND = ('stand', 'ready')

Sequences = tuple[tuple[str, ...], ...]

DISCIPLINES: Mapping[str, Sequences] = MappingProxyType(
    {
        'triple_jump': (*_RUN, ('takeoff', 'hop', 'plant'), ('takeoff', 'step', 'pike'), _AROUND),
        'high_jump': (*_RUN, ('takeoff', 'rise', 'arch', 'arch', 'clear'), _AROUND),
        'long_jump': (*_RUN, ('takeoff', 'hang', 'pike', 'touch', 'squat'), ('takeoff', 'hitch')),
    }
)
"""What a jumper goes through: a pose lies between two neighbours of a sequence."""

BYSTANDING: Sequences = _RUN[0], _AROUND
"""The same for people who do not jump."""

_TRUNK_NOISE, _LIMB_NOISE, _PITCH_NOISE = 4.0, 7.0, 4.0


def sample_pose(rng: np.random.Generator, sequences: Sequences) -> Pose:
    """A pose between two neighbours of one of the sequences, with either side taking off."""
    pairs = [pair for names in sequences for pair in pairwise(names)]
    first, second = (_KEYS[name] for name in pairs[int(rng.integers(len(pairs)))])
    part = float(rng.uniform())

    def between(name: str, side: int, rest: float, noise: float) -> float:
        ends = [key.get(name, rest) for key in (first, second)]
        start, end = (value[side] if isinstance(value, tuple) else value for value in ends)
        return start + part * (end - start) + noise * float(rng.standard_normal())

    def limbs(side: int) -> Angles:
        return {
            name: min(max(between(name, side, _REST[name], _LIMB_NOISE), low), high)
            for name, (low, high) in LIMB_RANGES.items()
        }

    trunk = {
        name: min(max(between(name, 0, 0.0, _TRUNK_NOISE), low), high)
        for name, (low, high) in TRUNK_RANGES.items()
    }
    pose = Pose(between('pitch', 0, 0.0, _PITCH_NOISE), trunk, limbs(0), limbs(1))
    return pose.mirrored() if rng.uniform() < 0.5 else pose
