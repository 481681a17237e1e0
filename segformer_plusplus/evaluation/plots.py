"""What plots of results share: labels that do not overlap, and the plot of a benchmark."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from ..errors import SegformerPlusPlusError
from ..files import written_beside

_RADII = (7, 16, 28, 42, 58)  # of candidates, in points of 1/72 inch
_DIRECTIONS = 12
_LEADER = 10  # from this radius on, a line leads to the point
_MARKER = 5  # half a marker, in points
_FONT_SIZE = 9

Run = Mapping[str, Any]


@dataclass(frozen=True)
class LabelledPoint:
    """A point in the data's coordinates, and its name."""

    x: float
    y: float
    label: str


def label_points(axis: Axes, points: Sequence[LabelledPoint]) -> None:
    """Write the names; call it when all else is drawn and the limits are set.

    Each takes the place near its point that covers least, those whose points are crowded first.

    Args:
        axis: of a figure whose layout may still change.
        points: drawn already.
    """
    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # a constrained layout moves the axis
    places = [tuple(axis.transData.transform((point.x, point.y))) for point in points]
    scale = figure.dpi / 72
    markers = [_around(x, y, _MARKER * scale) for x, y in places]
    taken: list[Bbox] = []
    crowded = sorted(range(len(points)), key=lambda index: _nearest(places, index))
    for index in crowded:
        width, height = _size(axis, points[index].label)
        others = [*taken, *markers]
        candidates = [
            (_cost(box, others, axis.bbox) + 1e-3 * radius, radius, offset, box)
            for radius, offset, box in _candidates(places[index], (width, height), scale)
        ]
        _, radius, offset, box = min(candidates, key=lambda candidate: candidate[0])
        taken.append(box)
        axis.annotate(
            points[index].label,
            (points[index].x, points[index].y),
            offset,
            textcoords='offset points',
            ha='center',
            va='center',
            fontsize=_FONT_SIZE,
            arrowprops=dict(arrowstyle='-', color='0.6', lw=0.6) if radius >= _LEADER else None,
        )


def _candidates(
    place: tuple[float, float], size: tuple[float, float], scale: float
) -> Iterator[tuple[float, tuple[float, float], Bbox]]:
    """Radius, offset of the label's middle in points, and its box in pixels."""
    width, height = size
    for radius, step in itertools.product(_RADII, range(_DIRECTIONS)):
        # from the upper right on; the middle lies so far away that the box clears the radius
        angle = math.pi / 4 + 2 * math.pi * step / _DIRECTIONS
        dx = math.cos(angle) * (radius * scale + width / 2)
        dy = math.sin(angle) * (radius * scale + height / 2)
        box = Bbox.from_bounds(place[0] + dx - width / 2, place[1] + dy - height / 2, width, height)
        yield radius, (dx / scale, dy / scale), box


def _cost(box: Bbox, others: Sequence[Bbox], within: Bbox) -> float:
    """Pixels that are covered, or that lie outside."""
    inside = _overlap(box, within)
    return sum(_overlap(box, other) for other in others) + box.width * box.height - inside


def _overlap(one: Bbox, other: Bbox) -> float:
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else float(common.width * common.height)


def _around(x: float, y: float, radius: float) -> Bbox:
    return Bbox.from_bounds(x - radius, y - radius, 2 * radius, 2 * radius)


def _nearest(places: Sequence[tuple[float, float]], index: int) -> float:
    return min(
        (math.dist(places[index], other) for k, other in enumerate(places) if k != index),
        default=math.inf,
    )


def _size(axis: Axes, text: str) -> tuple[float, float]:
    """Width and height in pixels, with a little air."""
    trial = axis.text(0, 0, text, fontsize=_FONT_SIZE)
    box = trial.get_window_extent()
    trial.remove()
    return float(box.width) + 4, float(box.height) + 2


def check_plot_path(path: str | Path) -> None:
    """Raise unless matplotlib can write this kind of file.

    Raises:
        SegformerPlusPlusError: names the suffix, and those that can be written.
    """
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    suffix = Path(path).suffix.lstrip('.').lower()
    if suffix not in known:
        raise SegformerPlusPlusError(
            f'{path}: a plot cannot be written as {suffix!r}; name a file that ends in one of '
            + ', '.join(f'.{name}' for name in known)
        )


def draw_benchmark(path: str | Path, runs: Sequence[Run], title: str = '') -> None:
    """Draw runs, one panel for each combination of batch size and threads.

    A panel of one shape has a bar for each model, stacked from its stages where they were measured
    (a stack of stages need not be as long as the whole, which is marked). A panel of several shapes
    has a line for each model over the pixels of an image, both axes logarithmic, with a band from
    the first to the third quartile.

    Args:
        path: of the picture, written beside and renamed; its suffix says which kind.
        runs: as in the JSON file of a benchmark; those without results are left out.
        title: above all panels.

    Raises:
        SegformerPlusPlusError: an unknown suffix, or no run has results.
    """
    check_plot_path(path)
    panels = _panels([run for run in runs if run.get('results')])
    if not panels:
        raise SegformerPlusPlusError(f'{path}: no run has results to draw')
    names = list(dict.fromkeys(r['name'] for p in panels for run in p for r in run['results']))
    palette = colormaps['tab10' if len(names) <= 10 else 'tab20']
    colours = {name: palette(index % palette.N) for index, name in enumerate(names)}
    heights = [
        1.3 + 0.36 * len(panel[0]['results']) if _is_one_shape(panel) else 4.2 for panel in panels
    ]
    figure = Figure(figsize=(8, sum(heights)), layout='constrained')
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        if _is_one_shape(panel):
            _draw_bars(axis, panel[-1], colours)
        else:
            _draw_lines(axis, panel, colours)
        axis.set_title(_describe(panel), fontsize=10)
    figure.suptitle(title, fontsize=11)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as place:
        figure.savefig(place, format=path.suffix.lstrip('.').lower(), dpi=120)


def _panels(runs: Sequence[Run]) -> list[list[Run]]:
    def key(run: Run) -> tuple[int, int]:
        return run['batch_size'], run['threads']

    return [list(group) for _, group in groupby(sorted(runs, key=key), key=key)]


def _is_one_shape(panel: Sequence[Run]) -> bool:
    return len({tuple(run['shape']) for run in panel}) == 1


def _describe(panel: Sequence[Run]) -> str:
    run = panel[0]
    height, width = run['shape']
    threads = '1 thread' if run['threads'] == 1 else f'{run["threads"]} threads'
    size = f'{height} x {width}, ' if _is_one_shape(panel) else ''
    return f'{size}batch {run["batch_size"]}, {threads}'


def _draw_bars(axis: Axes, run: Run, colours: Mapping[str, Any]) -> None:
    results = run['results']
    names = [result['name'] for result in results]
    medians = [1e3 * result['median_seconds'] for result in results]
    low, high = zip(*(result['quartiles_seconds'] for result in results), strict=True)
    errors = [
        [median - 1e3 * value for median, value in zip(medians, low, strict=True)],
        [1e3 * value - median for median, value in zip(medians, high, strict=True)],
    ]
    rows = range(len(names))
    stages = list(results[0].get('stages', {}))
    if stages:
        shades = colormaps['Blues']
        start = [0.0] * len(names)
        for index, stage in enumerate(stages):
            lengths = [1e3 * result['stages'][stage] for result in results]
            colour = shades(0.85 - 0.5 * index / max(1, len(stages) - 1))
            axis.barh(rows, lengths, left=start, color=colour, label=stage)
            start = [a + b for a, b in zip(start, lengths, strict=True)]
        axis.errorbar(medians, rows, xerr=errors, fmt='k|', capsize=3, label='whole (number)')
        axis.legend(fontsize=8, loc='best')
        ends = [max(start[row], 1e3 * high[row]) for row in rows]
    else:
        axis.barh(rows, medians, xerr=errors, capsize=3, color=[colours[name] for name in names])
        ends = [1e3 * value for value in high]
    for row, end, median in zip(rows, ends, medians, strict=True):
        axis.annotate(
            f'{median:.0f}' if median >= 100 else f'{median:.3g}',
            (end, row),
            (6, 0),
            textcoords='offset points',
            va='center',
        )
    axis.set_yticks(rows, names)
    axis.invert_yaxis()
    axis.set_xlim(right=1.12 * max(ends))
    axis.set_xlabel('ms, median and quartiles')


def _draw_lines(axis: Axes, panel: Sequence[Run], colours: Mapping[str, Any]) -> None:
    runs = sorted(panel, key=_pixels)
    for name, colour in colours.items():
        points = [
            (_pixels(run), result['median_seconds'], *result['quartiles_seconds'])
            for run in runs
            for result in run['results']
            if result['name'] == name
        ]
        if points:
            pixels, median, low, high = zip(*points, strict=True)
            dashed = '--' if name.endswith(', compiled') else '-'
            axis.plot(pixels, _ms(median), dashed, marker='o', ms=4, color=colour, label=name)
            axis.fill_between(pixels, _ms(low), _ms(high), color=colour, alpha=0.2, linewidth=0)
    axis.set_xscale('log')
    axis.set_yscale('log')
    shapes = {_pixels(run): 'x'.join(map(str, run['shape'])) for run in runs}
    axis.set_xticks(list(shapes), list(shapes.values()))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel('image (log of its pixels)')
    axis.set_ylabel('ms, median and quartiles')
    axis.grid(which='both', alpha=0.25)
    axis.legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))


def _pixels(run: Run) -> int:
    height, width = run['shape']
    return height * width


def _ms(seconds: Sequence[float]) -> list[float]:
    return [1e3 * value for value in seconds]
