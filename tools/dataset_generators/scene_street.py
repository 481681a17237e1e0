"""Draws what stands still in a street: sky, ground, houses, walls, fences, trees, poles, signs."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from tools.dataset_generators.drawing import Colour, Colours, darker, pick, vary
from tools.dataset_generators.scene_canvas import CLASSES, Billboard, Canvas, steps

ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = range(8)
VEGETATION, TERRAIN, SKY = (CLASSES.index(name) for name in ('vegetation', 'terrain', 'sky'))

CURB = 7.0  # metres from the road's middle
VERGE = 10.0  # where the sidewalk ends and grass begins
BARRIER = 12.0  # walls and fences
FACADE = 14.5
NEAR, FAR = 3.0, 400.0

BRICKS: Colours = ((150, 84, 66), (176, 116, 78), (134, 74, 72), (186, 136, 88))
GRASS: Colour = (150, 168, 78)
LEAVES: Colour = (48, 92, 42)
METAL: Colours = ((92, 98, 106), (120, 124, 128), (70, 76, 82))


def draw_sky(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draws a gradient from blue to haze over the whole canvas, with soft clouds."""
    top = np.asarray(vary(rng, (112, 160, 218), 18))
    ramp = np.clip(np.linspace(0, canvas.height / canvas.horizon, canvas.height), 0, 1)[:, None]
    column = top * (1 - ramp) + np.asarray(canvas.haze) * ramp
    canvas.image[:] = np.round(column).astype(np.uint8)[:, None]
    canvas.labels[:] = SKY
    for _ in range(int(rng.integers(3, 9))):
        x, y = rng.uniform(0, canvas.width), rng.uniform(0.02, 0.7) * canvas.horizon
        for _ in range(5):
            offset = rng.uniform(-0.05, 0.05) * canvas.width
            radii = rng.uniform(0.02, 0.06) * canvas.width, rng.uniform(0.01, 0.03) * canvas.height
            canvas.ellipse((x + offset, y), radii, vary(rng, (228, 234, 242), 5))


def draw_skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draws distant houses and trees, which close the road at the horizon."""
    for x in steps(-130, 131, 10):
        half, height = rng.uniform(4, 9), rng.uniform(6, 22)
        face = canvas.face(x - half, x + half, 0, height, 190.0)
        canvas.polygon(face, pick(rng, BRICKS), BUILDING, 120.0)
    for x in rng.uniform(-90, 90, size=24):
        tree(canvas, rng, float(x), 170.0, rng.uniform(5, 9))


def draw_ground(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draws grass, sidewalks with slabs, and a road with lanes, patches and a green island."""
    canvas.polygon(canvas.floor(-800, 800, NEAR, FAR), vary(rng, GRASS), TERRAIN, 20.0)
    slab, asphalt = vary(rng, (186, 158, 150), 10), vary(rng, (84, 84, 90), 10)
    for side in (-1, 1):
        strip = canvas.floor(side * CURB, side * VERGE, NEAR, FAR)
        canvas.polygon(strip, slab, SIDEWALK, 10.0)
        joint = darker(slab, 0.78)
        for x in (CURB + 0.6, (CURB + VERGE) / 2, VERGE - 0.6):
            ends = canvas.project(side * x, 0, NEAR), canvas.project(side * x, 0, 60)
            canvas.line(*ends, 1, joint)
        for z in steps(9.0, 45.0, 1.2):
            ends = canvas.project(side * CURB, 0, z), canvas.project(side * VERGE, 0, z)
            canvas.line(*ends, 0.02 * canvas.metre(z)[1], joint)
    canvas.polygon(canvas.floor(-CURB, CURB, NEAR, FAR), asphalt, ROAD, 10.0)
    for _ in range(14):
        x, z = rng.uniform(-CURB, CURB - 2.5), rng.uniform(4, 50)
        patch = canvas.floor(x, x + rng.uniform(0.5, 2.5), z, z * rng.uniform(1.05, 1.3))
        canvas.polygon(patch, darker(asphalt, rng.uniform(0.82, 1.15)), None, z)
    white = vary(rng, (206, 206, 204), 14)
    for lane in (-5.6, -2.8, 0.0, 2.8, 5.6):
        for z in steps(4.0 + rng.uniform(0, 3), 110.0, 7.0):
            length = 7.0 if abs(lane) > 5 else 3.0
            canvas.polygon(canvas.floor(lane - 0.09, lane + 0.09, z, z + length), white, None, z)
    for side in (-1, 1):
        curb = canvas.floor(side * (CURB - 0.15), side * (CURB + 0.15), NEAR, FAR, 0.05)
        canvas.polygon(curb, darker(slab, 1.12), SIDEWALK, 10.0)
    x, z = canvas.camera_x + rng.uniform(-2.0, 0.6), rng.uniform(6.0, 6.8)
    long = rng.uniform(2.6, 4.0)
    canvas.polygon(canvas.floor(x - 0.35, x + 2.05, z - 0.35, z + long + 0.5), slab, SIDEWALK, z)
    canvas.polygon(canvas.floor(x, x + 1.7, z, z + long), vary(rng, GRASS), TERRAIN, z)


def facades(canvas: Canvas, rng: np.random.Generator, side: int) -> None:
    """Draws a row of houses along one side, from far to near, with a gap here and there."""
    ends = [16.0]
    while ends[-1] < 180:
        ends.append(ends[-1] + rng.uniform(8, 18))
    for z0, z1 in reversed(list(pairwise(ends))):
        x = side * (FACADE + rng.uniform(0, 2.5))
        height, colour = rng.uniform(6.5, 14), pick(rng, BRICKS, 16)
        if rng.uniform() < 0.15:
            continue
        gable = canvas.face(x, x + side * 12, 0, height, z0)
        canvas.polygon(gable, darker(colour, 0.8), BUILDING, z0)
        canvas.polygon(canvas.plane(x, 0, height, z0, z1), colour, BUILDING, z0)
        eaves = canvas.plane(x, height - 0.5, height, z0, z1)
        canvas.polygon(eaves, darker(colour, 0.6), None, z0)
        _windows(canvas, rng, x, height, z0, z1, colour)


def _windows(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    height: float,
    z0: float,
    z1: float,
    bricks: Colour,
) -> None:
    """Draws storeys of windows, and the courses of brick between them."""
    glass, frame = vary(rng, (58, 66, 84), 14), darker(bricks, 1.3)
    width, storey = rng.uniform(0.9, 1.5), rng.uniform(2.7, 3.3)
    for y in steps(0.6, height - 0.6, 0.6):
        ends = canvas.project(x, y, z0), canvas.project(x, y, z1)
        canvas.line(*ends, 1, darker(bricks, 0.88), None, z0)
    for y in steps(0.9, height - 2.0, storey):
        for z in steps(z0 + 0.8, z1 - width, width * 1.9):
            pane = canvas.plane(x, y, y + 1.6, z, z + width)
            canvas.polygon(pane, frame, None, z)
            inner = canvas.plane(x, y + 0.15, y + 1.45, z + 0.12, z + width - 0.12)
            canvas.polygon(inner, glass, None, z)


def barriers(canvas: Canvas, rng: np.random.Generator, side: int) -> None:
    """Draws walls and fences in turn along one side, from far to near, with gaps."""
    z = 1.45 * abs(side * BARRIER - canvas.camera_x)  # about where the side comes into view
    kinds = [fence, wall] if rng.uniform() < 0.5 else [wall, fence]
    pieces = []
    while z < 130:
        length = rng.uniform(0.3, 0.45) * z
        pieces.append((z, z + length))
        z += length + rng.uniform(0, 2.5)
    for index in reversed(range(len(pieces))):
        kinds[index % 2](canvas, rng, side * BARRIER, *pieces[index])


def wall(canvas: Canvas, rng: np.random.Generator, x: float, z0: float, z1: float) -> None:
    """Draws a wall of concrete blocks along the road."""
    height, colour = rng.uniform(1.9, 2.6), vary(rng, (132, 156, 160), 12)
    canvas.polygon(canvas.plane(x, 0, height, z0, z1), colour, WALL, z0)
    joint = darker(colour, 0.72)
    for row, y in enumerate(steps(0, height, 0.42)):
        ends = canvas.project(x, y, z0), canvas.project(x, y, z1)
        canvas.line(*ends, 0.03 * canvas.metre(z0)[1], joint)
        for z in steps(z0 + 0.5 * (row % 2), z1, 1.0):
            top = min(y + 0.42, height)
            canvas.line(canvas.project(x, y, z), canvas.project(x, top, z), 1, joint, None, z)
    coping = canvas.plane(x, height - 0.15, height + 0.05, z0, z1)
    canvas.polygon(coping, darker(colour, 1.2), WALL, z0)


def fence(canvas: Canvas, rng: np.random.Generator, x: float, z0: float, z1: float) -> None:
    """Draws thin slats and two rails along the road; the gaps between them are fence, too."""
    height = rng.uniform(1.5, 2.0)
    colour = pick(rng, ((222, 214, 196), (104, 66, 40)), 10)
    canvas.polygon(canvas.plane(x, 0, height, z0, z1), None, FENCE)
    for z in steps(z1, z0, -0.3):
        canvas.polygon(canvas.plane(x, 0.05, height, z, z + 0.14), colour, None, z)
    for y in (0.3, height - 0.3):
        canvas.polygon(canvas.plane(x, y, y + 0.12, z0, z1), darker(colour, 0.85), None, z0)


def tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float, height: float) -> None:
    """Draws a trunk under a crown of leaves."""
    board, colour = Billboard(canvas, x, z), vary(rng, LEAVES, 14)
    trunk = [(-0.18, 0.0), (0.18, 0.0), (0.12, height * 0.5), (-0.12, height * 0.5)]
    board.polygon(trunk, (72, 54, 40), VEGETATION)
    for share in steps(0.0, 1.01, 0.048):
        radius = height * rng.uniform(0.09, 0.15)
        spread = 0.26 * height * np.sin(np.pi * (0.15 + 0.75 * share))
        u, v = rng.uniform(-spread, spread), height * (0.42 + 0.5 * share)
        leaf = darker(vary(rng, colour, 9), 0.78 + 0.4 * share)
        board.disc(u, v, (radius, radius), leaf, VEGETATION)


def hedge(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draws a low bush."""
    board, colour = Billboard(canvas, x, z), vary(rng, LEAVES, 14)
    for _ in range(9):
        u, v, radius = rng.uniform(-1.2, 1.2), rng.uniform(0.1, 0.8), rng.uniform(0.3, 0.5)
        board.disc(u, v, (radius, radius), vary(rng, colour, 9), VEGETATION)


def lamp_post(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draws a tall thin pole with an arm over the road."""
    colour, height = pick(rng, METAL, 8), rng.uniform(6, 8)
    canvas.upright(x, 0, height, z, 0.062, colour, POLE)
    board = Billboard(canvas, x, z, mirror=x > 0)
    board.stroke((0, height), (1.3, height + 0.2), 0.06, colour, POLE)
    board.disc(1.4, height + 0.2, (0.35, 0.12), darker(colour, 1.2), POLE)


def traffic_light(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draws three lamps, one of them lit, in a dark box with a yellow rim, on a thin pole."""
    height = rng.uniform(3.0, 4.2)
    canvas.upright(x, 0, height, z, 0.062, pick(rng, METAL, 8), POLE)
    board, lit = Billboard(canvas, x, z), int(rng.integers(3))
    box = [(-0.3, height - 0.35), (0.3, height - 0.35), (0.3, height + 1.05), (-0.3, height + 1.05)]
    board.polygon(box, vary(rng, (236, 196, 40), 8), TRAFFIC_LIGHT)
    inner = [(u * 0.8, v * 0.85 + height * 0.15 + 0.05) for u, v in box]
    board.polygon(inner, (22, 24, 26), TRAFFIC_LIGHT)
    lamps: Colours = ((70, 255, 130), (255, 200, 40), (255, 50, 40))
    for index, lamp in enumerate(lamps):
        shown = lamp if index == lit else darker(lamp, 0.25)
        board.disc(0, height - 0.05 + 0.4 * index, (0.15, 0.15), shown, TRAFFIC_LIGHT)


def traffic_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draws a round, triangular or square sign on a thin pole."""
    height, size = rng.uniform(2.2, 3.0), rng.uniform(0.42, 0.55)
    canvas.upright(x, 0, height, z, 0.052, pick(rng, METAL, 8), POLE)
    board, kind = Billboard(canvas, x, z), int(rng.integers(3))
    v, red, blue = height + size, vary(rng, (214, 24, 34), 8), vary(rng, (24, 74, 204), 8)
    white: Colour = (244, 244, 240)
    if kind == 0:
        board.disc(0, v, (size, size), red, TRAFFIC_SIGN)
        board.disc(0, v, (size * 0.66, size * 0.66), white, TRAFFIC_SIGN)
    elif kind == 1:
        for scale, colour in ((1.0, red), (0.55, white)):
            corners = ((-1.05, -0.7), (1.05, -0.7), (0.0, 1.05))
            triangle = [(a * size * scale, v + b * size * scale) for a, b in corners]
            board.polygon(triangle, colour, TRAFFIC_SIGN)
    else:
        square = [(-size, v - size), (size, v - size), (size, v + size), (-size, v + size)]
        board.polygon(square, blue, TRAFFIC_SIGN)
        arrow = [(-0.2, v - 0.28), (0.2, v - 0.28), (0.0, v + 0.34)]
        board.polygon(arrow, white, TRAFFIC_SIGN)


def shadow(canvas: Canvas, x0: float, x1: float, z0: float, z1: float) -> None:
    """Darkens the ground below something that stands on it; labels stay."""
    points = np.asarray(canvas.floor(x0, x1, z0, z1))
    left, top = np.clip(np.floor(points.min(0)), 0, (canvas.width, canvas.height)).astype(int)
    right, bottom = np.clip(np.ceil(points.max(0)), 0, (canvas.width, canvas.height)).astype(int)
    if left >= right or top >= bottom:
        return
    region = canvas.image[top:bottom, left:right]
    mask = np.zeros(region.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(points - (left, top)).astype(np.int32)], 1)
    region[mask > 0] = region[mask > 0] // 2
