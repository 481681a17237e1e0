"""Draws synthetic triple, high and long jumpers with keypoints.

Limbs overlap, are blurred, or a pole hides them; figures take from a third of the frame's height to
most of it; and no colour tells left from right: only where a limb is does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.pose.keypoints import COCO, JBD
from tools.dataset_files import check_whole
from tools.dataset_generators.drawing import Box, Drawing, add_noise, random_numbers, relight
from tools.dataset_generators.jumper_backdrop import draw_backdrop, draw_crossbar, draw_occluder
from tools.dataset_generators.jumper_figure import Figure, sample_kit
from tools.dataset_generators.jumper_pose import BYSTANDING, DISCIPLINES, Sequences, sample_pose
from tools.dataset_generators.jumper_skeleton import assemble, view

DRAWING = Drawing('jumpers', version=1, smallest=(96, 128), largest=(1080, 1920))
MAX_PEOPLE = 3
MARGIN = 2.0  # pixels between an athlete and the frame's border

_FACE = ('nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear')
# 'left_shoulder' of COCO is 'lsho' of Jump-Broadcast.
COCO_JOINTS = tuple(
    name if name in _FACE else name[0] + name.partition('_')[2][:3] for name in COCO.names
)
"""The joint of the figure that each of COCO's keypoints lies on."""


@dataclass(frozen=True)
class Person:
    """Holds the annotation of an athlete.

    A keypoint's visibility is 2 (visible), 1 (hidden) or 0 (not annotated, with x = y = 0).

    Attributes:
        jbd: (20, 3) float64, x and y in pixels and visibility of `JBD.names`.
        coco: (17, 3) float64, the same of `COCO.names`.
        box: (x, y, width, height) in pixels of the whole figure, hidden or not.
        area: Pixels of the whole figure.
    """

    jbd: np.ndarray
    coco: np.ndarray
    box: Box
    area: int


@dataclass(frozen=True)
class JumperFrame:
    """Holds a drawn frame.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        people: The annotated athletes.
    """

    image: np.ndarray
    people: tuple[Person, ...]


@dataclass(frozen=True)
class _Placed:
    """Holds a figure and its place: pixels a metre, the pixel of its pelvis, and its box."""

    figure: Figure
    scale: float
    origin: tuple[float, float]
    box: Box


def draw_jumpers(
    seed: int | Sequence[int],
    size: tuple[int, int],
    people: int = 1,
    *,
    discipline: str | None = None,
    bystanders: bool = True,
) -> JumperFrame:
    """Draws one frame; the same arguments give the same bytes.

    The longer side of an athlete's box is 35 to 85 % of the frame's height (65 % where there are
    several), unless the frame is too narrow for that.

    Args:
        seed: What `numpy.random.SeedSequence` takes: one or more whole numbers, none below 0.
        size: Height and width in pixels, from 96 x 128 to 1080 x 1920.
        people: Number of annotated athletes, 1 to 3.
        discipline: 'triple_jump', 'high_jump' or 'long_jump'; None draws one for each athlete.
        bystanders: Whether small figures that are not annotated may stand in the background.

    Raises:
        SegformerPlusPlusError: For an argument that is not allowed.
    """
    DRAWING.check_size(size)
    check_whole('people', people, 1)
    if people > MAX_PEOPLE:
        raise SegformerPlusPlusError(f'people={people} is not allowed: 1 to {MAX_PEOPLE}')
    if discipline is not None and discipline not in DISCIPLINES:
        raise SegformerPlusPlusError(
            f'discipline={discipline!r} is not known: one of {", ".join(DISCIPLINES)}'
        )
    rng = random_numbers(seed)

    image = draw_backdrop(rng, size)
    angle = rng.uniform(-0.8, 0.8)
    light = np.array([np.sin(angle), -np.cos(angle)])
    if bystanders:
        for _ in range(int(rng.choice((0, 0, 1, 2, 3)))):
            _draw_bystander(rng, image, light)
    cast: list[_Placed] = []
    for _ in range(people):
        jump = discipline or str(rng.choice(list(DISCIPLINES)))
        figure = _figure(rng, light, DISCIPLINES[jump])
        longer = size[0] * rng.uniform(0.35, 0.85 if people == 1 else 0.65)
        # of a few places, where the others are covered least
        places = [_place(rng, figure, size, longer) for _ in range(12 if cast else 1)]
        cast.append(min(places, key=lambda one: sum(_overlap(one.box, two.box) for two in cast)))
    cast.sort(key=lambda one: one.scale)

    # What is seen at each pixel: the number of an athlete, of something before them, or 0.
    owner = np.zeros(size, np.uint8)
    silhouettes = []
    for number, one in enumerate(cast, 1):
        if people == 1 and jump == 'high_jump' and rng.uniform() < 0.7:
            draw_crossbar(rng, image, one.box)
        silhouette = one.figure.draw(image, one.scale, one.origin)
        owner[silhouette > 0] = number
        silhouettes.append(silhouette)
    if rng.uniform() < 0.16:
        hidden = cast[int(rng.integers(len(cast)))]
        owner[draw_occluder(rng, image, hidden.box)] = len(cast) + 1
    annotated = tuple(
        _annotate(rng, one, number, silhouette, owner)
        for number, (one, silhouette) in enumerate(zip(cast, silhouettes, strict=True), 1)
    )
    return JumperFrame(_photograph(rng, image), annotated)


def _figure(rng: np.random.Generator, light: np.ndarray, sequences: Sequences) -> Figure:
    """Returns a figure in any pose and colours, coming towards the camera up to 40 degrees off.

    So the pit or the bar is filmed from behind it. From the side, the image hardly tells left
    limbs from right ones, which a model does not learn in minutes.
    """
    body = assemble(sample_pose(rng, sequences), 1.75 * rng.uniform(0.94, 1.08))
    camera = view(rng.uniform(50, 130), rng.uniform(-5, 10), 3 * rng.standard_normal())
    kit, build = sample_kit(rng), rng.uniform(0.9, 1.12)
    return Figure(body.turned(camera), kit, build, light)


def _place(
    rng: np.random.Generator,
    figure: Figure,
    size: tuple[int, int],
    longer: float,
    highest: float = MARGIN,
) -> _Placed:
    """Puts a figure anywhere below `highest`; the longer side of its box has `longer` pixels."""
    left, top, right, bottom = figure.extent()
    wide, high = right - left, bottom - top
    scale = min(
        longer / max(wide, high), (size[1] - 2 * MARGIN) / wide, (size[0] - 2 * MARGIN) / high
    )
    x = rng.uniform(MARGIN, max(MARGIN, size[1] - MARGIN - wide * scale))
    y = rng.uniform(highest, max(highest, size[0] - MARGIN - high * scale))
    origin = x - left * scale, y - top * scale
    return _Placed(figure, scale, origin, (x, y, wide * scale, high * scale))


def _draw_bystander(rng: np.random.Generator, image: np.ndarray, light: np.ndarray) -> None:
    """Draws a small figure far away, paler than an athlete."""
    height, width = image.shape[:2]
    figure = _figure(rng, light, BYSTANDING)
    one = _place(rng, figure, (height, width), height * rng.uniform(0.12, 0.24), 0.35 * height)
    before = image.copy()
    figure.draw(image, one.scale, one.origin)
    cv2.addWeighted(image, 0.75, before, 0.25, 0, dst=image)


def _overlap(first: Box, second: Box) -> float:
    """Returns how many pixels two boxes share."""
    sides = (
        min(first[i] + first[i + 2], second[i] + second[i + 2]) - max(first[i], second[i])
        for i in (0, 1)
    )
    return float(np.prod([max(0.0, side) for side in sides]))


def _annotate(
    rng: np.random.Generator, one: _Placed, number: int, silhouette: np.ndarray, owner: np.ndarray
) -> Person:
    """Reads off the keypoints; some of the hidden ones are left out."""
    keypoints: dict[str, tuple[float, float, float]] = {}
    middle = one.figure.points['skull'][2]
    for name in dict.fromkeys((*JBD.names, *COCO_JOINTS)):
        x, y = one.figure.pixel(name, one.scale, one.origin)
        covered = owner[int(y), int(x)] not in (0, number)
        omitted = covered and rng.uniform() < 0.25
        behind = name in _FACE and one.figure.points[name][2] < middle - 0.01
        seen = (x, y, 1.0 if covered or behind else 2.0)
        keypoints[name] = (0.0, 0.0, 0.0) if omitted else seen
    x, y, width, height = cv2.boundingRect(silhouette)
    return Person(
        np.array([keypoints[name] for name in JBD.names]),
        np.array([keypoints[name] for name in COCO_JOINTS]),
        (float(x), float(y), float(width), float(height)),
        cv2.countNonZero(silhouette),
    )


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Adds the camera: motion blur now and then, light and noise."""
    height = image.shape[0]
    if rng.uniform() < 0.25:
        length = max(3, round(height * rng.uniform(0.004, 0.009)))
        kernel = np.zeros((length, length), np.float32)
        rise = round(length * rng.uniform(-0.2, 0.2))
        middle = length // 2
        cv2.line(kernel, (0, middle - rise), (length - 1, middle + rise), 1.0)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    image = relight(rng, image, (0.82, 1.15), (0.85, 1.2))
    return add_noise(image, rng.uniform(2, 7) * rng.standard_normal(image.shape[:2], np.float32))
