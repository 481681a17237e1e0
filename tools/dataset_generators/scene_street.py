"""Draws what stands still in a street: sky, ground, houses, walls, fences, trees, poles, signs."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from tools.dataset_generators.drawing import Colour, Colours, Span, darker, pick, vary
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
        span = x - half, x + half
        canvas.face(span, (0, height), 190.0, pick(rng, BRICKS), BUILDING, haze=120.0)
    for x in rng.uniform(-90, 90, size=24):
        tree(canvas, rng, float(x), 170.0, rng.uniform(5, 9))


def draw_ground(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draws grass, sidewalks with slabs, and a road with lanes, patches and a green island."""
    canvas.floor((-800, 800), (NEAR, FAR), vary(rng, GRASS), TERRAIN, haze=20.0)
    slab, asphalt = vary(rng, (186, 158, 150), 10), vary(rng, (84, 84, 90), 10)
    for side in (-1, 1):
        curb, verge = side * CURB, side * VERGE
        canvas.floor((curb, verge), (NEAR, FAR), slab, SIDEWALK, haze=10.0)
        joint = darker(slab, 0.78)
        for x in (CURB + 0.6, (CURB + VERGE) / 2, VERGE - 0.6):
            canvas.edge((side * x, 0, NEAR), (side * x, 0, 60), 1, joint)
        for z in steps(9.0, 45.0, 1.2):
            canvas.edge((curb, 0, z), (verge, 0, z), 0.02 * canvas.metre(z)[1], joint)
    canvas.floor((-CURB, CURB), (NEAR, FAR), asphalt, ROAD, haze=10.0)
    for _ in range(14):
        x, z = rng.uniform(-CURB, CURB - 2.5), rng.uniform(4, 50)
        patch = (x, x + rng.uniform(0.5, 2.5)), (z, z * rng.uniform(1.05, 1.3))
        canvas.floor(*patch, darker(asphalt, rng.uniform(0.82, 1.15)))
    white = vary(rng, (206, 206, 204), 14)
    for lane in (-5.6, -2.8, 0.0, 2.8, 5.6):
        for z in steps(4.0 + rng.uniform(0, 3), 110.0, 7.0):
            length = 7.0 if abs(lane) > 5 else 3.0
            canvas.floor((lane - 0.09, lane + 0.09), (z, z + length), white)
    for side in (-1, 1):
        stone = side * (CURB - 0.15), side * (CURB + 0.15)
        canvas.floor(stone, (NEAR, FAR), darker(slab, 1.12), SIDEWALK, haze=10.0, y=0.05)
    x, z = canvas.camera_x + rng.uniform(-2.0, 0.6), rng.uniform(6.0, 6.8)
    long = rng.uniform(2.6, 4.0)
    canvas.floor((x - 0.35, x + 2.05), (z - 0.35, z + long + 0.5), slab, SIDEWALK, haze=z)
    canvas.floor((x, x + 1.7), (z, z + long), vary(rng, GRASS), TERRAIN)


def facades(canvas: Canvas, rng: np.random.Generator, side: int) -> None:
    """Draws a row of houses along one side, from far to near, with a gap here and there."""
    ends = [16.0]
    while ends[-1] < 180:
        ends.append(ends[-1] + rng.uniform(8, 18))
    for z in reversed(list(pairwise(ends))):
        x = side * (FACADE + rng.uniform(0, 2.5))
        height, colour = rng.uniform(6.5, 14), pick(rng, BRICKS, 16)
        if rng.uniform() < 0.15:
            continue
        canvas.face((x, x + side * 12), (0, height), z[0], darker(colour, 0.8), BUILDING)
        canvas.plane(x, (0, height), z, colour, BUILDING)
        canvas.plane(x, (height - 0.5, height), z, darker(colour, 0.6))
        _windows(canvas, rng, x, height, z, colour)


def _windows(
    canvas: Canvas, rng: np.random.Generator, x: float, height: float, depth: Span, bricks: Colour
) -> None:
    """Draws storeys of windows, and the courses of brick between them."""
    glass, frame = vary(rng, (58, 66, 84), 14), darker(bricks, 1.3)
    width, storey = rng.uniform(0.9, 1.5), rng.uniform(2.7, 3.3)
    for y in steps(0.6, height - 0.6, 0.6):
        canvas.edge((x, y, depth[0]), (x, y, depth[1]), 1, darker(bricks, 0.88), depth[0])
    for y in steps(0.9, height - 2.0, storey):
        for z in steps(depth[0] + 0.8, depth[1] - width, width * 1.9):
            canvas.plane(x, (y, y + 1.6), (z, z + width), frame)
            canvas.plane(x, (y + 0.15, y + 1.45), (z + 0.12, z + width - 0.12), glass, haze=z)


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
        kinds[index % 2](canvas, rng, side * BARRIER, pieces[index])


def wall(canvas: Canvas, rng: np.random.Generator, x: float, z: Span) -> None:
    """Draws a wall of concrete blocks along the road."""
    height, colour = rng.uniform(1.9, 2.6), vary(rng, (132, 156, 160), 12)
    canvas.plane(x, (0, height), z, colour, WALL)
    joint = darker(colour, 0.72)
    for row, y in enumerate(steps(0, height, 0.42)):
        canvas.edge((x, y, z[0]), (x, y, z[1]), 0.03 * canvas.metre(z[0])[1], joint)
        for end in steps(z[0] + 0.5 * (row % 2), z[1], 1.0):
            canvas.edge((x, y, end), (x, min(y + 0.42, height), end), 1, joint, end)
    canvas.plane(x, (height - 0.15, height + 0.05), z, darker(colour, 1.2), WALL)


def fence(canvas: Canvas, rng: np.random.Generator, x: float, z: Span) -> None:
    """Draws thin slats and two rails along the road; the gaps between them are fence, too."""
    height = rng.uniform(1.5, 2.0)
    colour = pick(rng, ((222, 214, 196), (104, 66, 40)), 10)
    canvas.plane(x, (0, height), z, None, FENCE)
    for slat in steps(z[1], z[0], -0.3):
        canvas.plane(x, (0.05, height), (slat, slat + 0.14), colour)
    for y in (0.3, height - 0.3):
        canvas.plane(x, (y, y + 0.12), z, darker(colour, 0.85))


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


def shadow(canvas: Canvas, x: Span, z: Span) -> None:
    """Darkens the ground below something that stands on it; labels stay."""
    points, size = np.asarray(canvas.ground(x, z)), (canvas.width, canvas.height)
    left, top = np.clip(np.floor(points.min(0)), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(points.max(0)), 0, size).astype(int)
    if left >= right or top >= bottom:
        return
    region = canvas.image[top:bottom, left:right]
    mask = np.zeros(region.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(points - (left, top)).astype(np.int32)], 1)
    region[mask > 0] = region[mask > 0] // 2
