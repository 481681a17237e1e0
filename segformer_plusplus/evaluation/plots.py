"""Draws results: what accuracy a speed-up costs, and the times of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from ..errors import SegformerPlusPlusError
from ..files import written_beside
from ..libraries import require
from .results import MEASURES, ResultsTable, find_front
from .timing import name_threads

Run = Mapping[str, Any]


class Point(NamedTuple):
    """Holds a speed-up, the value of a measure, a name to write beside it, and standard errors."""

    x: float
    y: float
    name: str = ''
    x_error: float = 0.0
    y_error: float = 0.0


@dataclass(frozen=True)
class Series:
    """Holds points that look alike.

    Attributes:
        points: may be empty.
        label: stands in the legend; empty for none.
        size: of the marker, in points squared.
        colour: None gives each name a colour of its own, the same in all series.
        line: the style of a line through the points, such as '-' or ':'; empty for none.
        steps: whether that line goes in steps.
    """

    points: Sequence[Point]
    label: str = ''
    marker: str = 'o'
    size: float = 55
    colour: str | None = None
    filled: bool = True
    line: str = ''
    steps: bool = False


@dataclass(frozen=True)
class Panel:
    """Describes a plot of one measure over the speed-up.

    Attributes:
        series: drawn one over the other.
        less_is_better: turns the axis, so that the best is at the top as ever.
        orders: whether values go by their orders of magnitude, around 0.
        y_limit: the worst value that is shown; None shows all.
        limits: budgets, as dashed lines: 'x' or 'y' with the value.
    """

    y_label: str
    series: Sequence[Series]
    less_is_better: bool = False
    orders: bool = False
    y_limit: float | None = None
    x_label: str = 'speed-up'
    limits: Mapping[str, float] | None = None


def draw_panels(path: str | Path, panels: Sequence[Panel], title: str = '') -> None:
    """Draws panels below each other, with names beside the points.

    Raises:
        SegformerPlusPlusError: matplotlib does not know the suffix of the path.
        MissingDependencyError: adjustText, which places the names, is not installed.
    """
    check_plot_path(path)
    figure = Figure(figsize=(8, 4.4 * len(panels) + 0.4), layout='constrained')
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    names = dict.fromkeys(p.name for panel in panels for s in panel.series for p in s.points)
    colours = {name: f'C{index % 10}' for index, name in enumerate(names)}
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel, colours)
    figure.draw_without_rendering()  # a constrained layout moves the axes
    for axis, panel in zip(axes, panels, strict=True):
        _write_names(axis, [point for each in panel.series for point in each.points])
    _save(figure, path)


def _draw_panel(axis: Axes, panel: Panel, colours: Mapping[str, str]) -> None:
    for order, series in enumerate(panel.series):
        _draw_series(axis, series, colours, order + 2)
    for name, value in (panel.limits or {}).items():
        draw = axis.axvline if name == 'x' else axis.axhline
        draw(value, color='tab:green', linestyle='--', label='budget', zorder=1)
    if panel.orders:
        values = [point.y for each in panel.series for point in each.points if point.y > 0]
        axis.set_yscale('symlog', linthresh=min(values, default=1.0))
    axis.margins(0.2)
    if panel.y_limit is not None:
        shown = [p for each in panel.series for p in each.points if p.y <= panel.y_limit]
        best = min((point.y for point in shown), default=0.0)
        edge = 0.06 * (panel.y_limit - best or 1.0)
        axis.set_ylim(best - edge, panel.y_limit + edge)
        xs = [point.x for point in shown] + [v for n, v in (panel.limits or {}).items() if n == 'x']
        side = 0.06 * (max(xs, default=1.0) - min(xs, default=1.0) or 1.0)
        axis.set_xlim(min(xs, default=1.0) - side, max(xs, default=1.0) + side)
    if panel.less_is_better:
        axis.invert_yaxis()
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label + (' (less is better)' if panel.less_is_better else ''))
    axis.grid(alpha=0.3)
    if any(series.label for series in panel.series):
        axis.legend(fontsize=8, loc='upper left', bbox_to_anchor=(1, 1), frameon=False)


def _draw_series(axis: Axes, series: Series, colours: Mapping[str, str], order: int) -> None:
    if not series.points:
        return
    x, y = [point.x for point in series.points], [point.y for point in series.points]
    edges = [series.colour or colours[point.name] for point in series.points]
    if series.line:
        style = 'steps-pre' if series.steps else 'default'
        axis.plot(x, y, series.line, color=series.colour or '0.7', drawstyle=style, zorder=1)
    if any(point.x_error or point.y_error for point in series.points):
        errors = [p.x_error for p in series.points], [p.y_error for p in series.points]
        axis.errorbar(
            x, y, xerr=errors[0], yerr=errors[1], fmt='none', ecolor=edges[0], zorder=order
        )
    if series.marker == 'x':  # has no face
        axis.scatter(x, y, s=series.size, marker='x', c=edges, label=series.label, zorder=order)
        return
    axis.scatter(
        x, y, s=series.size, marker=series.marker, label=series.label or None, linewidths=1.6,
        facecolors=edges if series.filled else 'white', edgecolors=edges, zorder=order,
    )  # fmt: skip


def _write_names(axis: Axes, points: Sequence[Point]) -> None:
    """Writes the names where they cover neither each other nor a point."""
    inside = [p for p in points if axis.bbox.contains(*axis.transData.transform((p.x, p.y)))]
    texts = [axis.text(p.x, p.y, p.name, fontsize=9, zorder=9) for p in inside if p.name]
    if texts:
        adjust_text: Any = require('adjustText', 'names in a plot').adjust_text
        adjust_text(
            texts, x=[p.x for p in inside], y=[p.y for p in inside], ax=axis,
            expand=(1.2, 1.5), arrowprops=dict(arrowstyle='-', color='0.6', lw=0.6),
        )  # fmt: skip


def _save(figure: Figure, path: str | Path) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as place:
        figure.savefig(place, format=path.suffix.lstrip('.').lower(), dpi=120)


def draw_table(path: str | Path, table: ResultsTable, title: str = '') -> None:
    """Draws a panel for every measure of a table, over the speed-up.

    Rows without a time or without values are left out.

    Raises:
        SegformerPlusPlusError: an unknown suffix, or no row has both.
    """
    panels = []
    for name, measure in MEASURES.items():
        points = {
            row.name: (row.speed_up, row.values[name])
            for row in table.rows
            if row.speed_up is not None and name in row.values
        }
        if not points:
            continue
        front = find_front(points, measure.higher_is_better)
        on = [Point(*points[each], each) for each in front]
        off = [Point(*points[each], each) for each in points if each not in front]
        panels.append(
            Panel(
                f'{measure.label} in {measure.unit}',
                [Series(off, filled=False), Series(on, line='-')],
                less_is_better=not measure.higher_is_better,
                orders=not measure.higher_is_better,
            )
        )
    if not panels:
        raise SegformerPlusPlusError(f'{path}: no preset was both timed and tested')
    note = 'filled: no other one is faster and better'
    draw_panels(path, panels, f'{title}\n{note}' if title else note)


def check_plot_path(path: str | Path) -> None:
    """Raises unless matplotlib can write this kind of file."""
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    suffix = Path(path).suffix.lstrip('.').lower()
    if suffix not in known:
        raise SegformerPlusPlusError(
            f'{path}: a plot cannot be written as {suffix!r}; name a file that ends in one of '
            + ', '.join(f'.{name}' for name in known)
        )


def draw_benchmark(path: str | Path, runs: Sequence[Run], title: str = '') -> None:
    """Draws runs, one panel for each combination of batch size and threads.

    A panel of one shape has a bar for each model, stacked from its stages where they were measured
    (a stack of stages need not be as long as the whole, which is marked). A panel of several shapes
    has a line for each model over the pixels of an image, both axes logarithmic, with a band from
    the first to the third quartile.

    Runs without results are left out.

    Raises:
        SegformerPlusPlusError: an unknown suffix, or no run has results.
    """
    check_plot_path(path)
    panels = group_runs([run for run in runs if run.get('results')])
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
    _save(figure, path)


def group_runs(runs: Sequence[Run]) -> list[list[Run]]:
    """Returns the runs of each batch size and number of threads, from small to large images."""

    def setting(run: Run) -> tuple[int, int]:
        return run['batch_size'], run['threads']

    ordered = sorted(runs, key=lambda run: (*setting(run), _pixels(run)))
    return [list(group) for _, group in groupby(ordered, key=setting)]


def _is_one_shape(panel: Sequence[Run]) -> bool:
    return len({tuple(run['shape']) for run in panel}) == 1


def _describe(panel: Sequence[Run]) -> str:
    run = panel[0]
    height, width = run['shape']
    size = f'{height} x {width}, ' if _is_one_shape(panel) else ''
    return f'{size}batch {run["batch_size"]}, {name_threads(run["threads"])}'


def _draw_bars(axis: Axes, run: Run, colours: Mapping[str, Any]) -> None:
    results = run['results']
    names = [result['name'] for result in results]
    rows = range(len(names))
    medians = [1e3 * result['median_seconds'] for result in results]
    low, high = (_ms([result['quartiles_seconds'][k] for result in results]) for k in (0, 1))
    errors = [
        [median - value for median, value in zip(medians, low, strict=True)],
        [value - median for median, value in zip(medians, high, strict=True)],
    ]
    ends = high
    if stages := list(next((each['stages'] for each in results if 'stages' in each), {})):
        start = [0.0] * len(names)
        for index, stage in enumerate(stages):
            # of what has no parts, only the whole is marked
            lengths = _ms([result.get('stages', {}).get(stage, 0) for result in results])
            colour = colormaps['Blues'](0.85 - 0.5 * index / max(1, len(stages) - 1))
            axis.barh(rows, lengths, left=start, color=colour, label=stage)
            start = [a + b for a, b in zip(start, lengths, strict=True)]
        axis.errorbar(medians, rows, xerr=errors, fmt='k|', capsize=3, label='whole (number)')
        axis.legend(fontsize=8, loc='best')
        ends = list(map(max, start, high))
    else:
        axis.barh(rows, medians, xerr=errors, capsize=3, color=[colours[name] for name in names])
    for row, end, median in zip(rows, ends, medians, strict=True):
        text = f'{median:.0f}' if median >= 100 else f'{median:.3g}'
        axis.annotate(text, (end, row), (6, 0), textcoords='offset points', va='center')
    axis.set_yticks(rows, names)
    axis.invert_yaxis()
    axis.set_xlim(right=1.12 * max(ends))
    axis.set_xlabel('ms, median and quartiles')


def _draw_lines(axis: Axes, runs: Sequence[Run], colours: Mapping[str, Any]) -> None:
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
