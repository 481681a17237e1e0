"""Draws a merge map: image, groups of every stage, predictions, and what changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ..files import written_beside
from .labels import distinct_colours, first_label
from .merge_maps import ROLES, MergeMap, MergeMaps

_IGNORED = (0, 0, 0)
_DIFFERENT = (255, 40, 40)


def draw(
    maps: MergeMaps,
    path: str | Path | None = None,
    *,
    block: int = -1,
    palette: Sequence[Sequence[int]] | None = None,
    title: str = '',
) -> Image.Image:
    """Draws a merge map.

    Args:
        maps: what was merged in one image.
        path: a PNG file to write completely or not at all; None writes nothing.
        block: number of the block of every stage, from 1; -1 is the last.
        palette: RGB of the labels, 0..255; None takes distinct colours.
        title: text above all panels.

    Returns:
        The picture; a notebook shows it.

    Raises:
        SegformerPlusPlusError: a stage has no such block.
    """
    panels = {'image': maps.image}
    for stage in range(1, maps.num_stages + 1):
        panels |= draw_stage(maps, stage, block)
    if maps.labels is not None and maps.labels_unmerged is not None and maps.changed is not None:
        largest = max(maps.labels.max(), maps.labels_unmerged.max())
        colours = palette or distinct_colours(int(largest) + 1).tolist()
        share = f'{maps.share_changed:.2%} of the pixels change their label'
        panels[share] = highlight(maps.image, maps.changed)
        panels['prediction with merging'] = colorize(maps.labels, colours)
        panels['prediction without merging'] = colorize(maps.labels_unmerged, colours)
    picture = _arrange(panels, title)
    if path is not None:
        with written_beside(path) as place:
            picture.save(place, format='PNG')
    return picture


def draw_stage(maps: MergeMaps, stage: int, block: int = -1) -> dict[str, np.ndarray]:
    """Draws what a block of a stage merged: pictures (H, W, 3) uint8 by what is said of them.

    Raises:
        SegformerPlusPlusError: the stage has no such block.
    """
    return {
        _describe(each): draw_groups(maps.image, each.groups)
        for each in maps.of_stage(stage, block)
    }


def draw_groups(image: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Paints every merged group in the mean colour of its pixels, with a border around it.

    Args:
        image: (H, W, 3) uint8.
        groups: (h, w) integers; each covers H / h by W / w pixels.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = image.shape[:2]
    rows = np.arange(height) * groups.shape[0] // height
    columns = np.arange(width) * groups.shape[1] // width
    ids = groups[rows][:, columns]
    result = mean_colours(image, ids)
    border = np.zeros((height, width), dtype=bool)
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    border[1:] |= ids[1:] != ids[:-1]
    result[border] = (result[border] * 0.55).astype(np.uint8)
    return result


def mean_colours(image: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Gives every pixel (H, W, 3) uint8 the mean colour of the pixels with its id (H, W)."""
    _, index = np.unique(ids, return_inverse=True)
    index = index.reshape(-1)
    sizes = np.bincount(index)
    channels = [np.bincount(index, image[..., c].reshape(-1)) / sizes for c in range(3)]
    means = np.stack(channels, axis=1).round().astype(np.uint8)
    return means[index].reshape(image.shape)


def _describe(each: MergeMap) -> str:
    height, width = each.groups.shape
    where = f'stage {each.stage}, block {each.block}'
    if each.num_merged == each.num_tokens:
        return f'{where}: {height}x{width} tokens, nothing merged'
    return (
        f'{where}, {ROLES[each.role]}: {each.share_merged:.0%} merged, '
        f'{each.num_tokens} to {each.num_merged} tokens'
    )


def _arrange(panels: dict[str, np.ndarray], title: str) -> Image.Image:
    height, width = next(iter(panels.values())).shape[:2]
    columns = 2 if width > 1.3 * height else 3
    rows = -(-len(panels) // columns)
    side = 16 / columns
    size = 16, 0.5 + rows * (side * height / width + 0.35)
    figure = Figure(figsize=size, dpi=120, layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, panel) in zip(axes, panels.items(), strict=False):
        axis.imshow(panel, interpolation='antialiased')
        axis.set_title(name, fontsize=11)
    if title:
        shown = title.encode(errors='backslashreplace').decode()  # a name may be any bytes
        figure.suptitle(shown, fontsize=13, parse_math=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def colorize(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Paints labels (H, W) as (H, W, 3) uint8 RGB; labels beyond the palette are black."""
    before = [_IGNORED] * first_label(len(palette))
    table = np.array([*before, *palette, _IGNORED], dtype=np.uint8)
    return table[np.minimum(labels, len(table) - 1)]


def highlight(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Darkens an image (H, W, 3) uint8 and paints a mask (H, W) bool in red."""
    result = (image * 0.35).astype(np.uint8)
    result[mask] = _DIFFERENT
    return result
