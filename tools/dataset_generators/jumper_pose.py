"""Samples the poses that jumpers go through, as joint angles in degrees within human ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

Angles = dict[str, float]
Ranges = Mapping[str, tuple[float, float]]
Sequences = tuple[tuple[str, ...], ...]

TRUNK_RANGES: Ranges = {
    'lumbar': (-35, 60),  # forward; below 0 the back arches
    'thorax': (-20, 40),  # forward
    'bend': (-20, 20),  # to the right
    'twist': (-35, 35),  # right shoulder forward
    'neck': (-45, 45),  # forward
    'turn': (-50, 50),  # face to the left
}
"""Lowest and highest angle of every joint of the trunk."""

LIMB_RANGES: Ranges = {
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
"""Lowest and highest angle of every joint of one arm and leg, the same on both sides."""


@dataclass(frozen=True)
class Pose:
    """Holds all joint angles.

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
        """Returns the pose in a mirror: sides swapped, turns to a side reversed."""
        trunk = {
            name: -angle if name in ('bend', 'twist', 'turn') else angle
            for name, angle in self.trunk.items()
        }
        return replace(self, trunk=trunk, right=self.left, left=self.right)


_REST: Angles = {
    **dict(hip=0, hip_out=4, hip_turn=0, knee=8, ankle=5),
    **dict(shoulder=0, shoulder_out=10, shoulder_turn=15, elbow=20, wrist=5),
}

# Key poses. Of limbs the first angle is that of the side that takes off, the second that of the
# other side, one alone that of both. A dot, and a joint without a column, is at rest.
_KEY_POSES = """
name    pitch lumbar thorax neck twist hip     hip_out knee    ankle shoulder shoulder_out elbow
stand   0     .      .      .    .     -3/6    .       .       .     -5/8     .            12/18
ready   20    20     .      -20  .     20/50   .       15/45   .     35/-20   .            30
drive   10    .      .      .    12    -20/80  .       12/95   38/0  48/-45   .            90
float   8     .      .      .    6     -22/52  .       75/38   30/0  35/-38   .            92
support 7     .      .      .    .     8/22    .       120/22  20/-8 -8/6     .            88
plant   -8    .      .      .    .     36/-12  .       12/80   -5/25 -42/30   .            70
takeoff 2     .      .      .    8     -20/88  .       4/100   45/5  112/-25  .            78
step    6     .      .      .    .     -28/88  .       85/88   25/0  62/-40   .            45/40
hop     5     .      .      .    .     85/-15  .       75/60   0/25  70/60    .            40/50
hang    -6    -22    -10    -10  .     -18/-8  .       78/62   35    168/150  20           .
hitch   -6    .      .      .    .     -22/82  .       45/22   30/0  150/-35  25           .
pike    2     35     15     -15  .     98/90   .       18/26   -10   85/70    .            .
touch   -6    38     20     -10  .     92/84   .       55/62   -12   40/15    .            .
squat   22    28     .      -20  .     95/88   .       108/100 -18   55/30    .            .
rise    -18   .      .      .    .     -15/85  .       15/105  40/10 150/80   .            40/70
arch    -80   -26    -14    -22  .     -20/-14 14      82/74   25    25/5     28           .
clear   -105  25     12     25   .     75/68   12      40/30   20    30/15    35           .
"""

_RUN = ('drive', 'float', 'support'), ('plant', 'takeoff')
_AROUND = ('stand', 'ready')

DISCIPLINES: Mapping[str, Sequences] = {
    'triple_jump': (*_RUN, ('takeoff', 'hop', 'plant'), ('takeoff', 'step', 'pike'), _AROUND),
    'high_jump': (*_RUN, ('takeoff', 'rise', 'arch', 'arch', 'clear'), _AROUND),
    'long_jump': (*_RUN, ('takeoff', 'hang', 'pike', 'touch', 'squat'), ('takeoff', 'hitch')),
}
"""What a jumper goes through: a pose lies between two neighbours of a sequence."""

BYSTANDING: Sequences = _RUN[0], _AROUND
"""The same for people who do not jump."""

_TRUNK_NOISE, _LIMB_NOISE, _PITCH_NOISE = 4.0, 7.0, 4.0


def _read_key_poses() -> dict[str, dict[str, list[float]]]:
    (_, *joints), *rows = (line.split() for line in _KEY_POSES.strip().splitlines())
    return {
        name: {
            joint: [float(angle) for angle in cell.split('/')]
            for joint, cell in zip(joints, cells, strict=True)
            if cell != '.'
        }
        for name, *cells in rows
    }


_KEYS = _read_key_poses()


def sample_pose(rng: np.random.Generator, sequences: Sequences) -> Pose:
    """Samples a pose between two neighbours of one of the sequences; either side takes off."""
    pairs = [pair for names in sequences for pair in pairwise(names)]
    first, second = (_KEYS[name] for name in pairs[int(rng.integers(len(pairs)))])
    part = float(rng.uniform())

    def between(joint: str, side: int, rest: float, noise: float) -> float:
        # The last angle is the other side's, or the only one.
        start, end = (key.get(joint, [rest])[-side] for key in (first, second))
        return start + part * (end - start) + noise * float(rng.standard_normal())

    def sample(ranges: Ranges, side: int, rest: Angles, noise: float) -> Angles:
        return {
            joint: min(max(between(joint, side, rest.get(joint, 0.0), noise), low), high)
            for joint, (low, high) in ranges.items()
        }

    trunk = sample(TRUNK_RANGES, 0, {}, _TRUNK_NOISE)
    pitch = between('pitch', 0, 0.0, _PITCH_NOISE)
    limbs = (sample(LIMB_RANGES, side, _REST, _LIMB_NOISE) for side in (0, 1))
    pose = Pose(pitch, trunk, *limbs)
    return pose.mirrored() if rng.uniform() < 0.5 else pose
