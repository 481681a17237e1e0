"""A picture of people with the skeletons that were annotated and predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.files import written_beside

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PosedPerson:
    """One person on one image.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        box: left, top, right, bottom in pixels: what is shown, with a margin.
        visible: (K,) which keypoints are annotated; only these are drawn.
        skeletons: (K, 2) keypoints in pixels, by the name of what gave them; the first is the
            ground truth.
    """

    image: np.ndarray
    box: Box
    visible: np.ndarray
    skeletons: dict[str, np.ndarray]


def draw_skeletons(
    path: str | Path,
    people: Sequence[PosedPerson],
    limbs: Sequence[tuple[int, int]],
    limb_colours: Sequence[Sequence[int]],
    keypoint_colours: Sequence[Sequence[int]],
    title: str = '',
) -> None:
    """Draw a row for every person and a column for every skeleton into a PNG file.

    Above each prediction stands how many of the annotated keypoints are within a tenth of the
    longer side of the box.

    Args:
        path: of the PNG, written beside and renamed.
        people: with the same names of skeletons.
        limbs: (L, 2) indices of the two keypoints of every limb.
        limb_colours: (L, 3) RGB, 0..255.
        keypoint_colours: (K, 3) RGB, 0..255.
        title: above all panels.

    Raises:
        SegformerPlusPlusError: no people, or people with other skeletons than the first.
    """
    names = list(people[0].skeletons) if people else []
    if not names or any(list(person.skeletons) != names for person in people):
        raise SegformerPlusPlusError('a picture of skeletons needs people with the same ones each')
    figure = Figure(figsize=(3 * len(names), 0.5 + 3.6 * len(people)), layout='constrained')
    axes = figure.subplots(len(people), len(names), squeeze=False)
    limb_rgb = np.asarray(limb_colours) / 255
    keypoint_rgb = np.asarray(keypoint_colours) / 255
    for row, person in zip(axes, people, strict=True):
        for axis, name in zip(row, names, strict=True):
            _show(axis, person)
            _draw(axis, person.skeletons[name], person.visible, limbs, limb_rgb, keypoint_rgb)
            axis.set_title(_caption(person, name), fontsize=10)
    figure.suptitle(title, fontsize=12)
    with written_beside(path) as place:
        figure.savefig(place, format='png', dpi=90)


def _show(axis: Axes, person: PosedPerson) -> None:
    left, top, right, bottom = person.box
    margin = 0.15 * max(right - left, bottom - top)
    height, width = person.image.shape[:2]
    axis.imshow(person.image)
    axis.set_xlim(max(left - margin, 0), min(right + margin, width))
    axis.set_ylim(min(bottom + margin, height), max(top - margin, 0))
    axis.set_axis_off()


def _draw(
    axis: Axes,
    keypoints: np.ndarray,
    visible: np.ndarray,
    limbs: Sequence[tuple[int, int]],
    limb_rgb: np.ndarray,
    keypoint_rgb: np.ndarray,
) -> None:
    shown = [index for index, (a, b) in enumerate(limbs) if visible[a] and visible[b]]
    lines = [keypoints[list(limbs[index])] for index in shown]
    axis.add_collection(LineCollection(lines, colors=limb_rgb[shown], linewidths=2))
    x, y = keypoints[visible].T
    axis.scatter(x, y, s=14, c=keypoint_rgb[visible], edgecolors='black', linewidths=0.5)


def _caption(person: PosedPerson, name: str) -> str:
    truth, *_ = person.skeletons
    if name == truth:
        return name
    left, top, right, bottom = person.box
    distance = np.linalg.norm(person.skeletons[name] - person.skeletons[truth], axis=1)
    near = (distance < 0.1 * max(right - left, bottom - top)) & person.visible
    return f'{name}: {near.sum()} of {person.visible.sum()} within 10 %'
