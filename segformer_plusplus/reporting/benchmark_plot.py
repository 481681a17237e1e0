"""A picture of a benchmark: bars for one size, lines over several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from ..errors import SegformerPlusPlusError
from ..files import written_beside

Run = Mapping[str, Any]


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
        runs: as in the JSON file of ``tools/benchmark.py``; those without results are left out.
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
