"""Draws synthetic street scenes with pixel labels.

Every scene has all 19 classes of Cityscapes, perspective, texture and large flat areas, and next to
them what disappears first when pixels or tokens are merged: poles two to six pixels wide (at 1024 x
2048), small signs and lights, people far away, fences with thin slats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tools.dataset_generators import drawing, scene_objects as objects, scene_street as street
from tools.dataset_generators.scene_canvas import CLASSES, IGNORE, Canvas, steps

DRAWING = drawing.Drawing('scenes', version=1, smallest=(64, 128), largest=(1024, 2048))

LANES = -3.7, -1.3, 1.3, 3.7  # metres from the road's middle
PARKED = 5.95

# How strongly each class is textured: fine grain, leaf-sized noise, broad blotches (grey levels).
TEXTURE = {
    'road': (5, 3, 5),
    'sidewalk': (4, 4, 4),
    'building': (4, 4, 5),
    'wall': (4, 7, 4),
    'fence': (3, 2, 2),
    'vegetation': (6, 24, 6),
    'terrain': (5, 12, 8),
    'sky': (1, 0, 3),
}
OTHER_TEXTURE = 2, 2, 2


@dataclass(frozen=True)
class Scene:
    """Holds a drawn street scene.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) uint8, Cityscapes train ids 0 to 18, or 255 (ignore).
    """

    image: np.ndarray
    labels: np.ndarray


def draw_scene(seed: int | Sequence[int], size: tuple[int, int]) -> Scene:
    """Draws one street scene.

    The same seed and size give the same bytes; the same seed at another size gives the same scene
    with other pixels.

    Args:
        seed: What `numpy.random.SeedSequence` takes: one or more whole numbers, none below 0.
        size: Height and width in pixels, from 64 x 128 to 1024 x 2048.

    Raises:
        SegformerPlusPlusError: For a size or a seed that is not allowed.
    """
    DRAWING.check_size(size)
    rng = drawing.random_numbers(seed)
    vanishing = rng.uniform(0.45, 0.55), rng.uniform(0.43, 0.49)
    red, green, blue = (rng.uniform(*ends) for ends in ((196, 216), (206, 222), (214, 232)))
    canvas = Canvas(size, vanishing, rng.uniform(-2.2, 2.2), (red, green, blue))

    street.draw_sky(canvas, rng)
    street.draw_skyline(canvas, rng)
    street.draw_ground(canvas, rng)
    # Nothing nearer to the road's middle is ever hidden by what stands further out on its side.
    for side in (-1, 1):
        street.facades(canvas, rng, side)
        _plants(canvas, rng, side)
        street.barriers(canvas, rng, side)
    _traffic(canvas, rng)
    _ignored(canvas, rng)
    _textured(canvas, rng)
    return Scene(canvas.image, canvas.labels)


Draw = Callable[[Canvas, np.random.Generator, float, float], object]


def _plants(canvas: Canvas, rng: np.random.Generator, side: int) -> None:
    """Draws trees and bushes between the houses and the walls, from far to near."""
    for z in steps(110.0, 15.0, -9.0):
        x = side * rng.uniform(12.4, 13.9)
        street.tree(canvas, rng, x, z + rng.uniform(-3, 3), rng.uniform(4.5, 7.5))
        street.hedge(canvas, rng, side * rng.uniform(12.3, 13.2), z + rng.uniform(-3, 3))


def _traffic(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draws everything between the barriers, from far to near."""
    things: list[tuple[float, float, Draw]] = []  # distance, place across the road, how to draw

    def place(draw: Draw, x: float, z: float) -> None:
        things.append((float(z), float(x), draw))

    # One large vehicle a lane, near enough to be seen past its neighbours.
    lanes = [LANES[index] for index in rng.permutation(4)]
    vehicles: tuple[tuple[Draw, float, float], ...] = (
        (objects.truck, 17.0, 30.0),
        (objects.bus, 17.0, 30.0),
        (objects.train, 20.0, 34.0),
        (objects.car, 14.0, 20.0),
    )
    for lane, (draw, near, far) in zip(lanes, vehicles, strict=True):
        place(draw, lane, rng.uniform(near, far))
        place(objects.car, lane, rng.uniform(60, 75))
    for side in (-1, 1):
        z = rng.uniform(11, 16)
        while z < 90:
            if rng.uniform() < 0.7:
                place(objects.car, side * PARKED, z)
            z += rng.uniform(6.0, 9.0)
        for z in steps(20.0, 84.0, 10.0):
            place(street.lamp_post, side * rng.uniform(7.3, 7.8), z + rng.uniform(-2, 2))
        for z in (17.0, 26.0, 40.0, 58.0):
            place(street.traffic_sign, side * rng.uniform(7.4, 9.8), z * rng.uniform(0.9, 1.2))
        for z in (18.0, 30.0, 48.0):
            place(street.traffic_light, side * rng.uniform(7.2, 8.2), z * rng.uniform(0.9, 1.2))
        for z in rng.uniform(14, 24, size=3):
            place(objects.person, side * rng.uniform(7.4, 9.8), z)
        for z in rng.uniform(28, 110, size=12):
            place(objects.person, side * rng.uniform(7.3, 9.9), z)
    # On the road: some close to the camera, some far down the street.
    cyclist, biker = (partial(objects.ride, motor=motor) for motor in (False, True))
    crossing: tuple[tuple[Draw, float, float], ...] = (
        (cyclist, 9.0, 14.0),
        (cyclist, 14.0, 30.0),
        (cyclist, 30.0, 70.0),
        (biker, 9.0, 14.0),
        (biker, 30.0, 70.0),
        (objects.motorcycle, 10.0, 15.0),
        (objects.bicycle, 11.0, 16.0),
        (objects.person, 9.0, 13.0),
        (objects.person, 35.0, 60.0),
    )
    for draw, near, far in crossing:
        z = rng.uniform(near, far)
        view = 0.5 * z  # metres seen to either side at this distance
        left, right = max(-6.6, canvas.camera_x - view), min(6.6, canvas.camera_x + view)
        place(draw, rng.uniform(left, right), z)
    for side in (-1, 1):
        place(objects.bicycle, side * rng.uniform(8.2, 9.6), rng.uniform(16, 24))
        place(objects.motorcycle, side * rng.uniform(8.2, 9.6), rng.uniform(16, 26))
    for z, x, draw in sorted(things, key=lambda thing: -thing[0]):
        draw(canvas, rng, x, z)


def _ignored(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draws the bonnet of the camera's own car, and ignores it and a thin border."""
    height, width = canvas.height, canvas.width
    centre = width / 2, height * 1.03
    radii = width * 0.52, height * rng.uniform(0.06, 0.075)
    canvas.ellipse(centre, radii, (46, 48, 54), IGNORE, 0.0, corners=64)
    border = round(min(height, width / 2) * 0.003)
    if border:
        for strip in (np.s_[:border], np.s_[-border:], np.s_[:, :border], np.s_[:, -border:]):
            canvas.labels[strip] = IGNORE


def _textured(canvas: Canvas, rng: np.random.Generator) -> None:
    """Adds each class's texture and the day's light."""
    image, size = drawing.relight(rng, canvas.image, (0.85, 1.12), (0.9, 1.15)), canvas.labels.shape
    strength = np.full((256, 3), OTHER_TEXTURE, np.float32)
    for name, values in TEXTURE.items():
        strength[CLASSES.index(name)] = values
    leaves, blotches = (drawing.smooth_noise(rng, size, cells) for cells in ((200, 400), (10, 20)))
    # Drawn last: the only numbers whose count depends on the size.
    grain = rng.standard_normal(size, np.float32)
    noise = strength[canvas.labels, 0] * grain
    noise += strength[canvas.labels, 1] * leaves
    noise += strength[canvas.labels, 2] * blotches
    canvas.image = drawing.add_noise(image, np.round(noise))
