"""Builds the page: its controls, and what they call. Needs Gradio."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from mmengine.logging import print_log

from . import words
from .calls import ERROR, SAME, Calls, for_people
from .comparison import Comparer
from .strategies import sliders

TITLE = 'SegFormer++: token merging'
_UNKNOWN = 'the request cannot be understood'

_SHARES = (
    'Keys and values merged away in stages 1 and 2',
    'Queries merged away in stages 3 and 4',
)

QUEUE = 100
"""Requests that Gradio keeps; comparisons beyond ``comparison.WAITING`` are refused in words."""

KEPT = 3600
"""Seconds for which uploaded and computed pictures are kept; none outlives the page."""


class Inputs(NamedTuple):
    """Holds what a visitor chooses with."""

    image: gr.Image
    about: gr.HTML
    gallery: gr.Gallery
    sample: gr.Textbox
    preset: gr.Radio
    kv: gr.Slider
    q: gr.Slider
    stages: gr.HTML
    message: gr.HTML
    button: gr.Button
    copy: gr.Button

    @property
    def chosen(self) -> list[Any]:
        return [self.image, self.preset, self.kv, self.q]

    @property
    def read(self) -> list[Any]:
        return [self.image, self.sample, self.about]


class Results(NamedTuple):
    """Holds what a visitor is shown; ``maps`` has words and a picture per stage."""

    summary: gr.HTML
    pair: gr.ImageSlider
    divider: gr.Slider
    changed: gr.Image
    details: gr.HTML
    maps: list[Any]


class Page(gr.Blocks):
    """Says in words what it cannot make sense of; Gradio itself prints a traceback."""

    async def process_api(self, *values: Any, **settings: Any) -> Any:
        """Computes what was asked for.

        Raises:
            gradio.Error: in words.
        """
        try:
            return await super().process_api(*values, **settings)
        except Exception as error:
            print_log(_UNKNOWN, logger='current', level=logging.WARNING)
            raise gr.Error(_UNKNOWN, print_exception=False) from error


def build_page(comparer: Comparer, model: str, samples: Mapping[str, Path]) -> gr.Blocks:
    """Builds the page without serving it.

    Args:
        comparer: computes what is shown.
        model: what is said about the model, such as the name of its config.
        samples: images to choose from, by the name that is shown.
    """
    calls = Calls(comparer, samples)
    with Page(title=TITLE, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown(words.intro(TITLE, model, comparer))
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                inputs = _inputs(calls, comparer)
            with gr.Column(scale=5, min_width=300, elem_id='results'):
                results = _results(comparer)
        _connect(page, calls, inputs, results)
    return page.queue(max_size=QUEUE)


def _inputs(calls: Calls, comparer: Comparer) -> Inputs:
    image = gr.Image(
        label='Image', sources=['upload', 'webcam', 'clipboard'], type='filepath', height=240,
        # an image is compared as it is, not re-encoded with a loss
        format='png', image_mode=None, buttons=[], alt_text='The image to predict',
    )  # fmt: skip
    calls.folder = image.GRADIO_CACHE
    about = _said()
    gallery = gr.Gallery(
        calls.thumbnails, visible=bool(calls.thumbnails), label='Samples', show_label=False,
        allow_preview=False, interactive=False, buttons=[], columns=3, fit_columns=False,
        height='auto', format='jpeg', elem_id='samples',
    )  # fmt: skip
    sample = gr.Textbox(visible='hidden')
    preset = gr.Radio(
        [(f'{name}: {about}', name) for name, about in comparer.presets.items()],
        value=comparer.first, label=comparer.kind, elem_id='strategy',
    )  # fmt: skip
    kv, q = (
        gr.Slider(label=label, **settings)
        for label, settings in zip(_SHARES, sliders(comparer.first), strict=True)
    )
    stages = _said(calls.explain(comparer.first, kv.value, q.value))
    with gr.Column(elem_id='go'):
        message = _said()
        button = gr.Button('Compare', variant='primary')
    copy = gr.Button('Copy the link to these settings', size='sm')
    _said('<p id="copied" role="status"></p>')
    return Inputs(image, about, gallery, sample, preset, kv, q, stages, message, button, copy)


def _results(comparer: Comparer) -> Results:
    _said(
        '<p id="stale" role="status" hidden>This is the result of the earlier setting; press '
        'Compare.</p>'
    )
    summary = _said('<p>Choose an image and press Compare.</p>')
    with gr.Tabs():
        with gr.Tab('Before and after'):
            pair = gr.ImageSlider(
                show_label=False, format='png', interactive=False, max_height=620, elem_id='pair'
            )
            divider = gr.Slider(
                0, 100, 50, step=1, label='Left: {}. Right: {}.'.format(*comparer.sides),
                elem_id='divider',
            )  # fmt: skip
        with gr.Tab(comparer.changes):
            changed = _picture(comparer.changes)
    details = _said()
    maps = _maps(comparer.num_stages) if comparer.num_stages else []
    return Results(summary, pair, divider, changed, details, maps)


def _maps(num_stages: int) -> list[Any]:
    gr.Markdown('### What was merged in the last block of each stage')
    maps: list[Any] = []
    with gr.Tabs():
        for number in range(1, num_stages + 1):
            with gr.Tab(f'Stage {number}'):
                maps += [_said(), _picture(f'What was merged in stage {number}')]
    return maps


def _said(text: str = '') -> gr.HTML:
    return gr.HTML(text, padding=False, elem_classes='words')


def _picture(title: str) -> gr.Image:
    return gr.Image(
        label=title, show_label=False, alt_text=title, format='png', interactive=False,
        buttons=['download', 'fullscreen'],
    )  # fmt: skip


def _connect(page: gr.Blocks, calls: Calls, inputs: Inputs, results: Results) -> None:
    private: dict[str, Any] = dict(api_visibility='private', concurrency_limit=None)
    quick = dict(private, queue=False, show_progress='hidden')
    slow = dict(private, show_progress_on=[inputs.image], trigger_mode='always_last')
    settings = inputs.chosen[1:]
    gr.on(
        [each.change for each in (*inputs.chosen, inputs.sample)], None,
        [*inputs.chosen, inputs.sample], js='(...values) => page.now(...values)', **quick,
    )  # fmt: skip
    inputs.preset.input(
        None, inputs.preset, settings[1:], js='preset => page.follow(preset)', **quick
    )
    gr.on(
        [each.change for each in settings], for_people(calls.explain, ERROR), settings,
        inputs.stages, trigger_mode='always_last',
        # the server has not heard of the limits that the browser set
        preprocess=False, **quick,
    )  # fmt: skip
    inputs.copy.click(None, js='() => page.copy()', **quick)

    take, choose = (for_people(call, None, '', ERROR) for call in (calls.take, calls.choose))
    inputs.image.upload(take, inputs.image, inputs.read, preprocess=False, **slow)
    inputs.image.clear(lambda: ('', ''), None, inputs.read[1:], **quick)
    inputs.gallery.select(choose, None, inputs.read, **slow)
    started = [*settings, *inputs.read, inputs.message]
    page.load(for_people(calls.load, *[SAME] * 6, ERROR), None, started, **slow)

    shown = [results.summary, results.pair, results.changed, results.details, *results.maps]
    inputs.button.click(None, None, inputs.button, js='() => "Comparing ..."', **quick)
    inputs.button.click(
        for_people(calls.compare, ERROR, *[SAME] * len(shown)),
        inputs.chosen,
        [inputs.message, *shown],
        # the payloads as they come: Gradio would decode a damaged image and fail without words
        preprocess=False,
        trigger_mode='once',
        show_progress_on=[results.pair],
        **private,
    ).then(None, None, inputs.button, js='() => page.arrived()', **quick)
    results.divider.input(
        None, results.divider, results.pair,
        js='at => ({__type__: "update", slider_position: at})', **quick,
    )  # fmt: skip
