"""A picture of what strategies change: image, truth, predictions, and where these differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.files import written_beside
from segformer_plusplus.inference.drawing import colorize, highlight


def draw_comparison(
    path: str | Path,
    image: np.ndarray,
    truth: np.ndarray,
    predictions: dict[str, np.ndarray],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    title: str = '',
) -> None:
    """Draw the panels into a PNG file.

    Args:
        path: of the PNG, written beside and renamed.
        image: (H, W, 3) uint8, RGB.
        truth: (H, W) labels; values beyond the classes are drawn black.
        predictions: (H, W) labels by name. The first is compared with each of the others.
        classes: names of the labels 0, 1, ...
        palette: RGB of the labels, 0..255.
        title: above all panels.

    Raises:
        SegformerPlusPlusError: label maps of another size than the image, or fewer than two
            predictions.
    """
    if len(predictions) < 2:
        raise SegformerPlusPlusError('a comparison needs at least two predictions')
    for name, labels in {'truth': truth, **predictions}.items():
        if labels.shape != image.shape[:2]:
            raise SegformerPlusPlusError(
                f'{name} is {labels.shape}, expected the size of the image {image.shape[:2]}'
            )
    baseline, *others = predictions
    panels = {'image': image, 'ground truth': colorize(truth, palette)}
    panels |= {name: colorize(labels, palette) for name, labels in predictions.items()}
    for name in others:
        different = predictions[name] != predictions[baseline]
        share = 100 * different.mean()
        panels[f'{name} against {baseline}: {share:.1f} % of the pixels differ'] = highlight(
            image, different
        )
    _draw_panels(Path(path), panels, _legend(truth, classes, palette), title)


def _legend(
    truth: np.ndarray, classes: Sequence[str], palette: Sequence[Sequence[int]]
) -> list[Patch]:
    present = [label for label in np.unique(truth) if label < len(classes)]
    return [
        Patch(color='#' + bytes(palette[label]).hex(), label=classes[label]) for label in present
    ]


def _draw_panels(
    path: Path, panels: dict[str, np.ndarray], legend: list[Patch], title: str
) -> None:
    columns = 2
    rows = -(-len(panels) // columns)
    height, width = next(iter(panels.values())).shape[:2]
    figure = Figure(figsize=(14, 0.9 + rows * (7 * height / width + 0.25)), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, panel) in zip(axes, panels.items(), strict=False):
        axis.imshow(panel, interpolation='antialiased')
        axis.set_title(name, fontsize=11)
    figure.suptitle(title, fontsize=13)
    figure.legend(handles=legend, loc='outside lower center', ncols=10, fontsize=9, frameon=False)
    with written_beside(path) as place:
        figure.savefig(place, format='png', dpi=110)
