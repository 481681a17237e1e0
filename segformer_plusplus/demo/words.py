"""Says things on the page, as HTML; everything that comes from elsewhere is escaped."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from html import escape

from .comparison import ROUNDS, Comparer, Result

_SURELY = 1.05
"""Times of few runs differ by less without a reason."""

_numbers = itertools.count()


def note(texts: Iterable[str]) -> str:
    """Returns sentences about an image, or nothing."""
    lines = ''.join(f'<p>{escape(text)}</p>' for text in texts)
    return f'<div role="status" class="said">{lines}</div>' if lines else ''


def error(text: str) -> str:
    """Returns an error, which the next action hides; the same one again is another."""
    return f'<p role="alert" class="said error" data-number="{next(_numbers)}">{escape(text)}</p>'


def strategy(stages: Iterable[str]) -> str:
    """Returns what a strategy merges, a line per stage; nothing of a file."""
    lines = ''.join(f'<li>{escape(line)}</li>' for line in stages)
    if not lines:
        return ''
    return f'<ol class="stages" aria-label="What is merged in stages 1, 2, ...">{lines}</ol>'


def stage(said: Iterable[str]) -> str:
    """Returns what is said of the merge map of a stage."""
    return ''.join(f'<p class="of-stage">{escape(each)}</p>' for each in said)


def summary(result: Result, settings: str, comparer: Comparer) -> str:
    """Returns the one sentence that one wants to know.

    Args:
        result: of the comparison.
        settings: by which the page knows whether the result is still that of what is chosen.
        comparer: that made it.
    """
    height, width = result.outcome.merged.shape[:2]
    said = f'<b>{escape(result.preset)}</b> at {width} x {height} pixels'
    if result.preset == comparer.baseline:
        why = 'nothing is merged' if comparer.num_stages else 'it is compared with itself'
        said += f': {why}, so that both sides are the same.'
    else:
        speed = _speed(result, escape(comparer.reference))
        said += f' is {speed}, and {escape(result.outcome.said)}.'
        said += _advice(result) if comparer.num_stages else ''
    return f'<p role="status" class="summary" data-of="{escape(settings)}">{said}</p>'


def _speed(result: Result, reference: str) -> str:
    gain = result.speed_up
    if gain >= _SURELY:
        return f'<b>{gain:.2f} times as fast</b> as {reference}'
    if gain > 1 / _SURELY:
        return f'as fast as {reference}, as far as so few runs tell'
    return f'<b>slower</b> than {reference} here, by {1 / gain - 1:.0%}'


def _advice(result: Result) -> str:
    if result.speed_up >= _SURELY:
        return ''
    return (
        ' Choosing what to merge takes time, too; it pays on larger images, where attention is '
        'most of the work: <code>segformer-plusplus benchmark --shape</code> finds from which '
        'size on.'
    )


def details(result: Result, comparer: Comparer) -> str:
    """Returns the legend of the pictures, and the times."""
    shows = escape(comparer.shows)
    entries = ''.join(
        f'<li><span class="swatch" style="background: rgb{each.colour}"></span>'
        f'{escape(each.name)} <span class="value">{escape(each.value)}</span></li>'
        for each in result.outcome.legend
    )
    times = {comparer.reference: result.seconds_unmerged, result.preset: result.seconds}
    if result.preset == comparer.baseline:
        times = {result.preset: result.seconds}
    return (
        f'<h3>{shows}</h3><ul class="legend" aria-label="{shows}">{entries}</ul>'
        f'<h3>Times</h3><table class="times">{_bars(times)}</table>'
        f'<p class="small">Medians of {ROUNDS[0]} to {ROUNDS[1]} runs in turn, '
        f'{comparer.timed}.</p>'
    )


def _bars(times: dict[str, float]) -> str:
    longest = max(times.values())
    return ''.join(
        f'<tr><th scope="row">{escape(name)}</th><td>{_time(seconds)}</td>'
        f'<td aria-hidden="true"><div style="width: {seconds / longest:.0%}"></div></td></tr>'
        for name, seconds in times.items()
    )


def _time(seconds: float) -> str:
    return f'{1000 * seconds:.0f} ms' if seconds < 1 else f'{seconds:.2f} s'


def intro(title: str, model: str, comparer: Comparer) -> str:
    """Returns the head of the page, in Markdown."""
    return (
        f'# {title}\n\n`{model}` on `{comparer.device}`. {comparer.about} Images of more than '
        f'{comparer.max_pixels:,} pixels are scaled down.'
    )
