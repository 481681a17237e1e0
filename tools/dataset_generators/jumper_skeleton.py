"""Puts the joints of the jumpers' skeleton where joint angles say.

Directions are those of a camera that sees the figure from its right: x forward and to the right of
the image, y up, z to the figure's right and towards the camera. Lengths are in metres, angles in
degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.dataset_generators.jumper_pose import Angles, Pose


@dataclass(frozen=True)
class Body:
    """Holds the joints of a posed figure.

    Attributes:
        points: (3,) metres from the middle of the pelvis, by name. Keypoints have Jump-Broadcast's
            names and, in the face, COCO's; 'pelvis', 'belly', 'chest' and 'skull' are middles.
        chest: (3, 3) rotation: its columns are the chest's forward, up and right.
        head: (3, 3) the same of the head.
    """

    points: dict[str, np.ndarray]
    chest: np.ndarray
    head: np.ndarray

    def turned(self, rotation: np.ndarray) -> Body:
        """Returns the body after a (3, 3) rotation about the middle of its pelvis."""
        points = {name: rotation @ point for name, point in self.points.items()}
        return Body(points, rotation @ self.chest, rotation @ self.head)


def view(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Returns the (3, 3) rotation for a camera.

    Args:
        yaw: Where the figure faces: 0 to the right of the image, 90 to the camera, 180 to the left.
        pitch: How far the camera looks down on it.
        roll: How far the image is turned, anticlockwise.
    """
    return _about('z', roll) @ _about('x', pitch) @ _about('y', -yaw)


def _about(axis: str, degrees: float) -> np.ndarray:
    """Returns a right-handed rotation about one axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = {'x': (1, 2), 'y': (2, 0), 'z': (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[[first, second], [first, second]] = cos
    matrix[second, first], matrix[first, second] = sin, -sin
    return matrix


def assemble(pose: Pose, height: float = 1.75) -> Body:
    """Puts a figure's joints where the angles say, before it is turned to a camera.

    Args:
        pose: All joint angles.
        height: The figure's height in metres, standing.
    """
    trunk, size = pose.trunk, height / 1.75
    pelvis = _about('z', -pose.pitch)
    loin = pelvis @ _about('x', trunk['bend']) @ _about('z', -trunk['lumbar'])
    chest = loin @ _about('y', trunk['twist']) @ _about('z', -trunk['thorax'])
    head = chest @ _about('y', trunk['turn']) @ _about('z', -trunk['neck'])
    points = {'pelvis': np.zeros(3)}

    def put(name: str, start: str, frame: np.ndarray, *offset: float) -> None:
        points[name] = points[start] + size * (frame @ np.array(offset))

    put('belly', 'pelvis', loin, 0, 0.2, 0)
    put('chest', 'belly', chest, 0, 0.15, 0)
    put('neck', 'belly', chest, 0, 0.3, 0)
    put('skull', 'neck', head, 0.015, 0.155, 0)
    put('head', 'neck', head, 0, 0.265, 0)
    put('nose', 'neck', head, 0.12, 0.13, 0)
    for side, name, angles, right in (('r', 'right', pose.right, 1), ('l', 'left', pose.left, -1)):
        put(f'{name}_eye', 'neck', head, 0.09, 0.165, right * 0.034)
        put(f'{name}_ear', 'neck', head, 0, 0.145, right * 0.08)

        upper = chest @ _limb(angles, 'shoulder', right)
        fore = upper @ _about('z', angles['elbow'])
        put(f'{side}sho', 'neck', chest, 0, -0.05, right * 0.185)
        put(f'{side}elb', f'{side}sho', upper, 0, -0.29, 0)
        put(f'{side}wri', f'{side}elb', fore, 0, -0.25, 0)
        put(f'{side}han', f'{side}wri', fore @ _about('z', angles['wrist']), 0, -0.17, 0)

        thigh = pelvis @ _limb(angles, 'hip', right)
        shank = thigh @ _about('z', -angles['knee'])
        foot = shank @ _about('z', -angles['ankle'])
        put(f'{side}hip', 'pelvis', pelvis, 0, -0.03, right * 0.09)
        put(f'{side}kne', f'{side}hip', thigh, 0, -0.43, 0)
        put(f'{side}ank', f'{side}kne', shank, 0, -0.42, 0)
        put(f'{side}hee', f'{side}ank', foot, -0.055, -0.065, 0)
        put(f'{side}toe', f'{side}ank', foot, 0.185, -0.06, 0)
    return Body(points, chest, head)


def _limb(angles: Angles, joint: str, right: int) -> np.ndarray:
    """Returns the rotation in a hip or shoulder; `right` is 1 there and -1 on the left."""
    out, turn = -right * angles[f'{joint}_out'], right * angles[f'{joint}_turn']
    return _about('z', angles[joint]) @ _about('x', out) @ _about('y', turn)
