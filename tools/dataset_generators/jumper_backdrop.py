"""Draws what stands behind and before the jumpers: streets, stadiums, walls; poles and boards."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from tools.dataset_generators.drawing import (
    Box,
    Colour,
    Colours,
    add_noise,
    pick,
    smooth_noise,
    vary,
)
from tools.dataset_generators.scenes import draw_scene

STREETS = 12  # to cut from; they take long to draw, so every process draws each of them once
_STREET_SEED, _STREET_SIZE = 20231, (512, 1024)

_GROUNDS: Colours = ((150, 78, 62), (96, 128, 74), (188, 168, 128), (74, 104, 138))
_WALLS: Colours = ((150, 158, 166), (116, 128, 120), (172, 160, 142), (104, 112, 132))
_BOARDS: Colours = ((40, 70, 120), (210, 210, 206), (120, 40, 44), (60, 100, 74))


def draw_backdrop(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draws a background of (height, width) pixels: (H, W, 3) uint8, RGB."""
    kind = rng.uniform()
    image = (_street if kind < 0.35 else _stadium if kind < 0.8 else _wall)(rng, size)
    # The camera's focus is on the athlete.
    return cv2.GaussianBlur(image, (0, 0), size[0] * rng.uniform(0.0008, 0.003) + 0.2)


@lru_cache(maxsize=STREETS)
def _drawn_street(index: int) -> np.ndarray:
    image = draw_scene((_STREET_SEED, index), _STREET_SIZE).image
    image.flags.writeable = False
    return image


def _street(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Cuts a part of a street scene, mirrored or not, and makes it somewhat pale."""
    street = _drawn_street(int(rng.integers(STREETS)))
    part = rng.uniform(0.55, 0.9) * min(_STREET_SIZE[0] / size[0], _STREET_SIZE[1] / size[1])
    height, width = (max(1, round(n * part)) for n in size)
    top = int(rng.integers(_STREET_SIZE[0] - height + 1))
    left = int(rng.integers(_STREET_SIZE[1] - width + 1))
    cut = street[top : top + height, left : left + width]
    if rng.uniform() < 0.5:
        cut = cut[:, ::-1]
    image = cv2.resize(np.ascontiguousarray(cut), size[::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.convertScaleAbs(image, alpha=rng.uniform(0.6, 0.85), beta=rng.uniform(20, 40))


def _blotched(rng: np.random.Generator, image: np.ndarray, strength: float) -> np.ndarray:
    """Adds large and small patches of other brightness."""
    size = image.shape[0], image.shape[1]
    noise = smooth_noise(rng, size, (6, 9)) + 0.7 * smooth_noise(rng, size, (60, 100))
    return add_noise(image, strength * noise)


def _graded(size: tuple[int, int], top: Colour, bottom: Colour) -> np.ndarray:
    """Returns an image that goes from one colour to the other."""
    ends = np.array([[top], [bottom]], np.float32)
    return cv2.resize(ends, size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8)


def _wall(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    top, bottom = pick(rng, _WALLS, 24), pick(rng, _WALLS, 24)
    return _blotched(rng, _graded(size, top, bottom), rng.uniform(3, 12))


def _stadium(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draws spectators, a row of boards and the ground."""
    height, width = size
    horizon = round(height * rng.uniform(0.3, 0.62))
    board = max(2, round(height * rng.uniform(0.05, 0.11)))
    ground = pick(rng, _GROUNDS, 16)
    far = vary(rng, ground, 14)
    image = _blotched(rng, _graded(size, far, ground), rng.uniform(3, 9))
    _lanes(rng, image, horizon)

    rows = max(2, round(horizon / height * rng.uniform(28, 60)))
    cells = rows, max(2, round(rows * width / horizon))
    bright = rng.normal(rng.uniform(70, 120), 26, (*cells, 1))
    crowd = np.clip(bright + rng.normal(0, 11, (*cells, 3)), 0, 255).astype(np.uint8)
    image[:horizon] = cv2.resize(crowd, (width, horizon), interpolation=cv2.INTER_LINEAR)

    left = -int(rng.integers(width // 4))
    while left < width:
        wide = int(height * rng.uniform(0.25, 0.6)) + 1
        colour = pick(rng, _BOARDS, 20)
        cv2.rectangle(image, (left, horizon), (left + wide, horizon + board), colour, -1)
        middle = horizon + board // 2
        ink = vary(rng, (225, 225, 225) if sum(colour) < 400 else (50, 50, 60))
        ends = (left + wide // 5, middle), (left + wide * 4 // 5, middle)
        cv2.line(image, *ends, ink, max(1, board // 4), cv2.LINE_AA)
        left += wide
    return image


def _lanes(rng: np.random.Generator, image: np.ndarray, horizon: int) -> None:
    """Draws white lines that run to one point at the horizon, or along the runway."""
    height, width = image.shape[:2]
    white, thick = vary(rng, (214, 212, 206), 14), max(1, height // 180)
    if rng.uniform() < 0.5:
        vanishing = round(width * rng.uniform(0, 1)), horizon
        for foot in np.arange(-2 * width, 3 * width, max(8, round(width * rng.uniform(0.15, 0.3)))):
            cv2.line(image, vanishing, (int(foot), height), white, thick, cv2.LINE_AA)
    else:
        slope = rng.uniform(-0.06, 0.06) * width
        for part in rng.uniform(0.2, 0.95, size=2):
            y = horizon + part * (height - horizon)
            ends = (0, round(y - slope)), (width, round(y + slope))
            cv2.line(image, *ends, white, thick, cv2.LINE_AA)


def draw_crossbar(rng: np.random.Generator, image: np.ndarray, box: Box) -> None:
    """Draws the high jump's bar and its two uprights, at the height of somebody in `box`."""
    x, y, width, height = box
    level, metre = y + height * rng.uniform(0.55, 0.85), max(width, height) / 1.8
    left, right = x + width / 2 - 2 * metre, x + width / 2 + 2 * metre
    thick = max(1, round(0.03 * metre))
    for upright in (left, right):
        ends = (round(upright), round(level - 0.1 * metre)), (round(upright), image.shape[0])
        cv2.line(image, *ends, (206, 206, 200), 2 * thick, cv2.LINE_AA)
    ends = (round(left), round(level)), (round(right), round(level))
    cv2.line(image, *ends, vary(rng, (226, 206, 80)), thick, cv2.LINE_AA)


def draw_occluder(rng: np.random.Generator, image: np.ndarray, box: Box) -> np.ndarray:
    """Draws a pole, a bar or a board before somebody in `box`; returns its (H, W) bool mask."""
    x, y, width, height = box
    rows, columns = image.shape[:2]
    kind = int(rng.integers(3))
    if kind == 0:
        wide = max(3.0, max(width, height) * rng.uniform(0.05, 0.11))
        left = x + width * rng.uniform(0.1, 0.9) - wide / 2
        corners = left, rows * rng.uniform(-0.2, 0.1), left + wide, rows
    elif kind == 1:
        high = max(3.0, max(width, height) * rng.uniform(0.04, 0.08))
        top = y + height * rng.uniform(0.15, 0.9) - high / 2
        corners = 0, top, columns, top + high
    else:
        middle, wide = x + width * rng.uniform(0.2, 0.8), width * rng.uniform(0.4, 1.2)
        corners = middle - wide / 2, y + height * rng.uniform(0.72, 0.88), middle + wide / 2, rows
    left, top = (max(0, round(n)) for n in corners[:2])
    place = np.s_[top : max(top + 1, round(corners[3])), left : max(left + 1, round(corners[2]))]
    light = np.linspace(1.15, 0.8, image[place].shape[1 if kind == 0 else 0])
    shades = light[None, :, None] if kind == 0 else light[:, None, None]
    colour = pick(rng, _BOARDS, 30)
    image[place] = np.clip(shades * np.asarray(colour), 0, 255).astype(np.uint8)
    cover = np.zeros((rows, columns), bool)
    cover[place] = True
    return cover
