"""Draws one athlete: a posed skeleton in flesh and clothes, from the far limbs to the near ones.

Left and right look the same but for where they are: no colour tells one side from the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from tools.dataset_generators.drawing import Colour, Colours, circle, darker, fill, pick, vary
from tools.dataset_generators.jumper_skeleton import Body
from tools.dataset_generators.scene_objects import SKIN

JERSEYS: Colours = (
    *((208, 36, 40), (24, 78, 186), (240, 200, 30), (20, 140, 76)),
    *((236, 116, 24), (238, 238, 236), (112, 44, 140), (24, 160, 176)),
)
SHORTS: Colours = ((24, 26, 34), (226, 226, 226), (30, 44, 96), (150, 24, 36))
SHOES: Colours = ((240, 240, 240), (248, 96, 40), (30, 200, 120), (36, 36, 40))
HAIR: Colours = ((34, 26, 22), (92, 60, 36), (196, 158, 96), (130, 60, 30))
BIB: Colour = (244, 244, 240)
INK: Colour = (20, 20, 24)

CAMERA_DISTANCE = 9.0  # metres from the pelvis: what is nearer is a little larger
_CIRCLE = circle(16)
# How round things look: the part of the radius that is filled, and how bright.
_SHADING = ((1.0, 0.74), (0.8, 0.95), (0.45, 1.1))


Kit = Mapping[str, Colour]
"""The colours of one athlete."""


def sample_kit(rng: np.random.Generator) -> Kit:
    """Samples all colours of an athlete."""
    jersey, stripe = (JERSEYS[i] for i in rng.permutation(len(JERSEYS))[:2])
    skin = pick(rng, SKIN, 14)
    return {
        'skin': skin,
        'hair': pick(rng, HAIR, 10),
        'jersey': vary(rng, jersey),
        'stripe': vary(rng, stripe),
        'shorts': pick(rng, SHORTS),
        'socks': skin if rng.uniform() < 0.4 else pick(rng, SHORTS),
        'shoes': pick(rng, SHOES),
    }


@dataclass(frozen=True)
class Blob:
    """Holds a convex shape: the hull of circles.

    Attributes:
        centres: (N, 3) metres.
        radii: (N,) metres; 0 is a corner.
        colour: RGB.
        shaded: Whether it is round, or a flat patch of one colour.
    """

    centres: np.ndarray
    radii: np.ndarray
    colour: Colour
    shaded: bool = True


Part = tuple[float, list[Blob]]
"""A part of the body: how near it is, and its shapes from far to near."""


class Figure:
    """Draws a posed athlete anywhere in an image.

    Args:
        body: The joints, turned to the camera.
        kit: The colours.
        build: A factor on the girth of the limbs.
        light: (2,) where the light comes from in the image, of length 1.

    Attributes:
        points: The joints in metres, as in `Body`.
    """

    def __init__(self, body: Body, kit: Kit, build: float, light: np.ndarray) -> None:
        self.points, self._body, self._kit = body.points, body, kit
        self._build, self._light = build, light
        parts = [self._torso(), self._head()]
        for side in 'rl':
            parts += self._arm(side) + self._leg(side)
        parts.sort(key=lambda part: part[0])
        self.blobs = [blob for _, blobs in parts for blob in blobs]

    def extent(self) -> tuple[float, float, float, float]:
        """Returns left, top, right and bottom at one pixel a metre, the pelvis at (0, 0)."""
        centres = np.concatenate([blob.centres for blob in self.blobs])
        radii = np.concatenate([blob.radii for blob in self.blobs])
        centres, radii = _project(centres, radii, 1.0, (0.0, 0.0))
        left, top = (centres - radii[:, None]).min(0)
        right, bottom = (centres + radii[:, None]).max(0)
        return float(left), float(top), float(right), float(bottom)

    def pixel(self, name: str, scale: float, origin: tuple[float, float]) -> np.ndarray:
        """Returns (2,) x and y of a joint, for pixels a metre and the pixel of the pelvis."""
        return _project(self.points[name][None], np.zeros(1), scale, origin)[0][0]

    def draw(self, image: np.ndarray, scale: float, origin: tuple[float, float]) -> np.ndarray:
        """Draws onto (H, W, 3) RGB in place; returns the silhouette, (H, W) uint8 of 0 and 1."""
        mask = np.zeros(image.shape[:2], np.uint8)
        for blob in self.blobs:
            centres, radii = _project(blob.centres, blob.radii, scale, origin)
            dim = min(max(1 + 1.7 * blob.centres[:, 2].mean(), 0.55), 1.12)
            _fill_hull(mask, centres, radii, (1, 1, 1), cv2.LINE_8)
            if not blob.shaded:
                _fill_hull(image, centres, radii, darker(blob.colour, dim))
                continue
            for part, bright in _SHADING:
                moved = centres + 0.6 * (1 - part) * radii[:, None] * self._light
                _fill_hull(image, moved, part * radii, darker(blob.colour, dim * bright))
        return mask

    def _hull(
        self, colour: Colour, *circles: tuple[np.ndarray | str, float], shaded: bool = True
    ) -> Blob:
        """Returns the hull of circles round joints or points, with radii for an average build."""
        centres = [self.points[at] if isinstance(at, str) else at for at, _ in circles]
        radii = self._build * np.array([radius for _, radius in circles])
        return Blob(np.stack(centres), radii, colour, shaded)

    def _between(self, first: str, second: str, part: float) -> np.ndarray:
        return (1 - part) * self.points[first] + part * self.points[second]

    def _depth(self, *names: str) -> float:
        return float(np.mean([self.points[name][2] for name in names]))

    def _arm(self, side: str) -> list[Part]:
        kit = self._kit
        sho, elb, wri, han = (f'{side}{joint}' for joint in ('sho', 'elb', 'wri', 'han'))
        palm, tip = self._between(wri, han, 0.45), self._between(wri, han, 0.88)
        upper = [
            self._hull(kit['skin'], (sho, 0.052), (elb, 0.04)),
            self._hull(kit['jersey'], (sho, 0.064), (self._between(sho, elb, 0.3), 0.058)),
        ]
        fore = [
            self._hull(kit['skin'], (elb, 0.04), (wri, 0.027)),
            self._hull(kit['skin'], (wri, 0.025), (palm, 0.038), (tip, 0.02)),
        ]
        return [(self._depth(sho, elb), upper), (self._depth(elb, wri), fore)]

    def _leg(self, side: str) -> list[Part]:
        kit = self._kit
        hip, kne, ank, hee, toe = (side + joint for joint in ('hip', 'kne', 'ank', 'hee', 'toe'))
        calf, sock = self._between(kne, ank, 0.3), self._between(kne, ank, 0.72)
        thigh = [
            self._hull(kit['skin'], (hip, 0.085), (kne, 0.055)),
            self._hull(kit['shorts'], (hip, 0.095), (self._between(hip, kne, 0.5), 0.08)),
        ]
        shank = [
            self._hull(kit['skin'], (kne, 0.054), (calf, 0.058), (ank, 0.034)),
            self._hull(kit['socks'], (sock, 0.045), (ank, 0.036)),
            self._hull(kit['shoes'], (hee, 0.034), (ank, 0.036), (toe, 0.018)),
        ]
        return [(self._depth(hip, kne), thigh), (self._depth(kne, ank), shank)]

    def _torso(self) -> Part:
        kit = self._kit
        trunk = ('pelvis', 0.105), ('belly', 0.105), ('chest', 0.12), ('rsho', 0.06), ('lsho', 0.06)
        blobs = [
            self._hull(kit['shorts'], ('belly', 0.085), ('rhip', 0.09), ('lhip', 0.09)),
            self._hull(kit['jersey'], *trunk),
        ]
        facing = self._body.chest[2, 0]  # of the chest's forward, towards the camera
        if facing > 0.12:
            blobs.append(self._patch(0.11, (-0.1, 0.1), (-0.07, 0.07), BIB))
            blobs += [
                self._patch(0.11, (digit - 0.022, digit + 0.022), (-0.04, 0.04), INK)
                for digit in (-0.045, 0.045)
            ]
        elif facing < -0.12:
            blobs.append(self._patch(-0.11, (-0.13, 0.13), (0.02, 0.08), kit['stripe']))
        return self._depth('chest', 'pelvis'), blobs

    def _patch(
        self, forward: float, right: tuple[float, float], up: tuple[float, float], colour: Colour
    ) -> Blob:
        """Returns a flat rectangle on the chest or back, in metres from the chest's middle."""
        corners = ((right[0], up[0]), (right[1], up[0]), (right[1], up[1]), (right[0], up[1]))
        places = (np.array([forward, high, wide]) for wide, high in corners)
        circles = [(self.points['chest'] + self._body.chest @ place, 0.0) for place in places]
        return self._hull(colour, *circles, shaded=False)

    def _head(self) -> Part:
        kit, head, points = self._kit, self._body.head, self.points

        def at(forward: float, up: float) -> np.ndarray:
            return points['skull'] + head @ np.array([forward, up, 0.0])

        neck = self._hull(kit['skin'], ('neck', 0.055), ('skull', 0.05))
        hair = self._hull(kit['hair'], (at(-0.025, 0.022), 0.088), (at(-0.035, -0.02), 0.07))
        face = [
            self._hull(kit['skin'], (at(0.025, 0.01), 0.078), (at(0.05, -0.075), 0.038)),
            self._hull(darker(kit['skin'], 1.08), ('nose', 0.014), (at(0.09, 0.0), 0.016)),
        ]
        for side in ('right', 'left'):
            if points[f'{side}_eye'][2] > points['skull'][2] + 0.02:
                face.append(self._hull(INK, (f'{side}_eye', 0.011), shaded=False))
            if points[f'{side}_ear'][2] > points['skull'][2] + 0.03:
                ear = darker(kit['skin'], 0.85)
                face.append(self._hull(ear, (f'{side}_ear', 0.02), shaded=False))
        # Whichever is nearer covers the other: seen from behind, there is hair only.
        ahead = head[2, 0] > -0.35
        return self._depth('skull'), [neck, hair, *face] if ahead else [neck, *face, hair]


def _project(
    centres: np.ndarray, radii: np.ndarray, scale: float, origin: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Turns (N, 3) centres and (N,) radii of circles in metres into pixels."""
    nearer = scale * CAMERA_DISTANCE / (CAMERA_DISTANCE - centres[:, 2])
    return centres[:, :2] * np.stack([nearer, -nearer], axis=1) + origin, radii * nearer


def _fill_hull(
    image: np.ndarray,
    centres: np.ndarray,
    radii: np.ndarray,
    colour: Sequence[float],
    line: int = cv2.LINE_AA,
) -> None:
    """Fills the hull of circles in place: (N, 2) centres and (N,) radii in pixels."""
    edge = (centres[:, None] + radii[:, None, None] * _CIRCLE).reshape(-1, 2).astype(np.float32)
    fill(image, cv2.convexHull(edge), colour, line)
