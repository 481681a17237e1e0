"""Draws what moves in a street: people, bicycles, motorcycles, cars, trucks, buses, trams."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tools.dataset_generators.drawing import Colour, Colours, Span, darker, pick, vary
from tools.dataset_generators.scene_canvas import CAMERA_HEIGHT, Billboard, Canvas, steps
from tools.dataset_generators.scene_street import shadow

PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(11, 19)

SKIN: Colours = ((226, 178, 148), (176, 126, 92), (110, 74, 54))
COATS: Colours = ((176, 40, 120), (122, 52, 150), (214, 92, 140), (96, 40, 96))
PAINTS: Colours = ((196, 200, 206), (36, 38, 44), (170, 34, 32), (226, 228, 230))
GLASS: Colour = (40, 50, 66)
TYRE: Colour = (24, 24, 26)


def person(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draws somebody on foot, about 1.75 m tall."""
    board = Billboard(canvas, x, z, bool(rng.integers(2)))
    tall, step = rng.uniform(0.93, 1.06), rng.uniform(0.0, 0.22)
    coat, jeans, skin = pick(rng, COATS), vary(rng, (44, 56, 104)), pick(rng, SKIN)
    shadow(canvas, (x - 0.3, x + 0.3), (z - 0.15, z + 0.25))
    for foot in (-step, step):
        leg = [(foot - 0.1, 0), (foot + 0.1, 0), (0.14, 0.9 * tall), (-0.14, 0.9 * tall)]
        board.polygon(leg, darker(jeans, 1.0 if foot > 0 else 0.8), PERSON)
    arms = [(-0.32, 0.8), (-0.2, 1.4), (0.2, 1.4), (0.32 + step / 2, 0.85), (0.2, 0.85)]
    board.polygon([(u, v * tall) for u, v in arms], darker(coat, 0.85), PERSON)
    torso = [(-0.19, 0.78), (0.19, 0.78), (0.23, 1.42), (0.1, 1.5), (-0.1, 1.5), (-0.23, 1.42)]
    board.polygon([(u, v * tall) for u, v in torso], coat, PERSON)
    board.disc(0, 1.62 * tall, (0.11, 0.14), skin, PERSON)
    board.disc(0, 1.69 * tall, (0.11, 0.08), (50, 36, 28), PERSON)


def bicycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> Billboard:
    """Draws a bicycle from the side; its wheels are labelled all over, gaps between spokes too."""
    board, paint = Billboard(canvas, x, z, bool(rng.integers(2))), vary(rng, (24, 206, 190), 16)
    for u in (-0.55, 0.55):
        board.disc(u, 0.36, (0.36, 0.36), None, BICYCLE)
        angles = np.linspace(0, 2 * np.pi, 17)
        rim = [(u + 0.34 * np.cos(angle), 0.36 + 0.34 * np.sin(angle)) for angle in angles]
        for start, end in pairwise(rim):
            board.stroke(start, end, 0.06, TYRE, BICYCLE)
        for start in rim[:8]:
            board.stroke(start, (2 * u - start[0], 0.72 - start[1]), 0.012, (150, 152, 156))
    joints = [(-0.55, 0.36), (-0.05, 0.34), (0.4, 0.85), (-0.2, 0.85), (-0.05, 0.34)]
    for start, end in pairwise(joints):
        board.stroke(start, end, 0.08, paint, BICYCLE)
    board.stroke((-0.55, 0.36), (-0.2, 0.85), 0.06, paint, BICYCLE)
    board.stroke((0.55, 0.36), (0.38, 1.02), 0.07, paint, BICYCLE)
    board.stroke((0.28, 1.04), (0.5, 1.02), 0.06, TYRE, BICYCLE)
    board.stroke((-0.36, 0.95), (-0.08, 0.93), 0.09, TYRE, BICYCLE)
    return board


def motorcycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> Billboard:
    """Draws a motorcycle from the side."""
    board, paint = Billboard(canvas, x, z, bool(rng.integers(2))), vary(rng, (84, 206, 44), 14)
    shadow(canvas, (x - 1.0, x + 1.0), (z - 0.2, z + 0.3))
    for u in (-0.68, 0.68):
        board.disc(u, 0.34, (0.35, 0.35), TYRE, MOTORCYCLE)
        board.disc(u, 0.34, (0.17, 0.17), (128, 130, 136), MOTORCYCLE)
    engine = [(-0.45, 0.25), (0.35, 0.25), (0.45, 0.65), (-0.5, 0.65)]
    board.polygon(engine, (58, 58, 64), MOTORCYCLE)
    body = [(-0.95, 0.7), (0.3, 0.55), (0.62, 0.72), (0.45, 1.05), (0.05, 0.98), (-0.35, 0.82)]
    board.polygon([*body, (-0.95, 0.95)], paint, MOTORCYCLE)
    board.stroke((0.68, 0.34), (0.45, 1.12), 0.1, (150, 150, 156), MOTORCYCLE)
    board.stroke((0.3, 1.2), (0.5, 1.1), 0.08, TYRE, MOTORCYCLE)
    board.disc(0.66, 0.92, (0.1, 0.1), (250, 244, 200), MOTORCYCLE)
    board.stroke((-0.9, 0.3), (0.0, 0.26), 0.1, (176, 176, 182), MOTORCYCLE)
    return board


def ride(canvas: Canvas, rng: np.random.Generator, x: float, z: float, motor: bool) -> None:
    """Draws a bicycle or motorcycle and its rider, who wears a bright jacket and a helmet."""
    board = (motorcycle if motor else bicycle)(canvas, rng, x, z)
    jacket, seat = pick(rng, ((255, 138, 20), (236, 240, 50)), 10), 0.9
    trousers = vary(rng, (206, 96, 22), 12)
    leg = [(-0.28, seat), (-0.02, seat + 0.12), (0.2, 0.75), (0.1, 0.3), (-0.06, 0.3), (0.0, 0.7)]
    board.polygon(leg, trousers, RIDER)
    torso = [(-0.32, seat), (0.0, seat), (0.28, 1.42), (0.14, 1.58), (-0.14, 1.5)]
    board.polygon(torso, jacket, RIDER)
    board.stroke((0.14, 1.42), (0.38, 1.08), 0.14, darker(jacket, 0.85), RIDER)
    board.disc(0.18, 1.68, (0.13, 0.15), pick(rng, SKIN), RIDER)
    board.disc(0.17, 1.74, (0.16, 0.12), (240, 240, 244), RIDER)


def _box(canvas: Canvas, x: Span, y: Span, z: Span, colour: Colour, label: int) -> float | None:
    """Draws a box between two places on each axis; returns the x of the side that is seen."""
    side = x[0] if x[0] > canvas.camera_x else x[1] if x[1] < canvas.camera_x else None
    if side is not None:
        canvas.plane(side, y, z, darker(colour, 0.72), label)
    if y[1] < CAMERA_HEIGHT:
        canvas.floor(x, z, darker(colour, 1.1), label, y=y[1])
    canvas.face(x, y, z[0], colour, label)
    return side


def _wheels(canvas: Canvas, x: Span, side: float | None, z: list[float], label: int) -> None:
    """Draws tyres below the near face, and discs on the side that is seen."""
    canvas.face((x[0] + 0.1, x[1] - 0.1), (0.14, 0.5), z[0], (16, 16, 18), label)
    for left in (x[0] + 0.1, x[1] - 0.35):
        canvas.face((left, left + 0.25), (0, 0.45), z[0], TYRE, label)
    if side is None:
        return
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    for axle in z[1:]:
        circle = zip(axle + 0.36 * np.cos(angles), 0.36 + 0.36 * np.sin(angles), strict=True)
        canvas.polygon([canvas.project(side, y, z) for z, y in circle], TYRE, label, axle)


def _lamps(canvas: Canvas, x: Span, y: float, z: float, oncoming: bool) -> None:
    colour: Colour = (252, 246, 214) if oncoming else (224, 22, 26)
    for left in (x[0] + 0.08, x[1] - 0.38):
        canvas.face((left, left + 0.3), (y, y + 0.18), z, colour)


def car(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draws a car seen from behind, or from the front on the left of the road."""
    paint, long = pick(rng, PAINTS, 14), rng.uniform(3.8, 4.6)
    wide, high = rng.uniform(0.86, 0.95), rng.uniform(1.4, 1.6)
    body, cabin = (x - wide, x + wide), (x - wide + 0.1, x + wide - 0.1)
    shadow(canvas, (x - wide - 0.1, x + wide + 0.1), (z - 0.3, z + long))
    side = _box(canvas, cabin, (0.85, high), (z + 0.5, z + long - 1.0), darker(paint, 0.9), CAR)
    if side is not None:
        for start, end in ((0.7, long / 2 - 0.1), (long / 2, long - 1.3)):
            canvas.plane(side, (0.92, high - 0.1), (z + start, z + end), GLASS, CAR, haze=z)
    _wheels(canvas, body, None, [z], CAR)
    side = _box(canvas, body, (0.28, 0.9), (z, z + long), paint, CAR)
    _wheels(canvas, body, side, [z, z + 0.8, z + long - 0.8], CAR)
    rear = cabin[0] + 0.08, cabin[1] - 0.08
    canvas.face(rear, (0.9, high - 0.1), z + 0.4, GLASS, CAR, haze=z)
    _lamps(canvas, body, 0.66, z, x < -1)
    canvas.face((x - 0.26, x + 0.26), (0.45, 0.58), z, (236, 236, 226))
    canvas.face(body, (0.26, 0.36), z, (44, 44, 48))


def truck(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draws a lorry with a blue or cream box, striped in blue."""
    blue, cream = vary(rng, (30, 66, 156), 14), vary(rng, (232, 222, 190), 8)
    box, stripe = (blue, cream) if rng.uniform() < 0.6 else (cream, blue)
    sides, top = (x - 1.25, x + 1.25), rng.uniform(3.3, 3.8)
    shadow(canvas, (x - 1.4, x + 1.4), (z - 0.4, z + 8))
    _box(canvas, sides, (0.5, 1.0), (z, z + 8), (50, 50, 56), TRUCK)
    side = _box(canvas, sides, (0.95, top), (z, z + 8), box, TRUCK)
    _wheels(canvas, sides, side, [z, z + 1.2, z + 2.4, z + 6.8], TRUCK)
    for low in (1.5, 2.4):
        canvas.face(sides, (low, low + 0.4), z, stripe)
        if side is not None:
            canvas.plane(side, (low, low + 0.4), (z, z + 8), darker(stripe, 0.75))
    canvas.edge((x, 1, z), (x, top, z), 1, darker(box, 0.5))
    _lamps(canvas, sides, 0.6, z, False)


def bus(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draws a yellow bus with a row of windows."""
    paint, glass = vary(rng, (244, 204, 40), 12), vary(rng, (34, 58, 52), 8)
    _coach(canvas, rng, x, (z, z + 11.0), (paint, (60, 60, 62), glass), BUS)


def train(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draws a red tram with a white band, on its rails."""
    for rail in (x - 0.7, x + 0.7):
        canvas.floor((rail - 0.06, rail + 0.06), (11.5, 120), (52, 50, 52), haze=10)
    paint, glass = vary(rng, (214, 30, 52), 12), vary(rng, (72, 66, 92), 8)
    _coach(canvas, rng, x, (z, z + 26.0), (paint, (240, 236, 230), glass), TRAIN)


def _coach(
    canvas: Canvas, rng: np.random.Generator, x: float, z: Span, colours: Colours, label: int
) -> None:
    """Draws a bus or a tram, a long box with windows; the colours are paint, band and glass."""
    paint, band, glass = colours
    sides, top = (x - 1.3, x + 1.3), rng.uniform(3.1, 3.5)
    shadow(canvas, (x - 1.4, x + 1.4), (z[0] - 0.4, z[1]))
    side = _box(canvas, sides, (0.3, top), z, paint, label)
    _wheels(canvas, sides, side, [z[0], z[0] + 2.0, z[1] - 2.0], label)
    canvas.face(sides, (0.95, 1.2), z[0], band)
    canvas.face((x - 1.05, x + 1.05), (1.5, top - 0.55), z[0], glass)
    canvas.face((x - 0.6, x + 0.6), (top - 0.4, top - 0.1), z[0], (24, 24, 24))
    if side is not None:
        canvas.plane(side, (0.95, 1.2), z, darker(band, 0.8))
        for start in steps(z[0] + 0.6, z[1] - 1.2, 1.7):
            canvas.plane(side, (1.5, top - 0.5), (start, start + 1.3), glass)
    _lamps(canvas, sides, 0.5, z[0], x < -1)
