"""Builds the page: its controls, what they call, and how results are shown. Needs Gradio."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Mapping
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from mmengine.logging import print_log
from PIL import Image

from ..errors import SegformerPlusPlusError
from ..token_merging import BASELINE, PRESETS
from .comparison import ROUNDS, Comparer, Ratios, Result, preset_ratios

TITLE = 'SegFormer++: token merging'
FIRST_PRESET = 'hq'
RATIO_STEP = 0.0125
"""Of the sliders: all ratios and limits of the presets are multiples of it."""

_UNKNOWN = 'the request cannot be understood'

WAITING = 8
"""Computations that wait; one more is refused."""

KEPT = 3600
"""Seconds for which uploaded and computed pictures are kept; none outlives the page."""

CSS = """
.swatch {display: inline-block; width: .9em; height: .9em; margin: 0 .35em 0 0; border: 1px solid}
.classes {list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3em 1.2em}
.times td, .times th {padding: .3em 1em .3em 0; text-align: left}
"""

_LABELS = (
    'Keys and values merged away in stages 1 and 2',
    'Queries merged away in stages 3 and 4',
)


class Page(gr.Blocks):
    """Says in words what it cannot make sense of; Gradio itself prints a traceback."""

    async def process_api(self, *values: Any, **settings: Any) -> Any:
        """Computes what was asked for.

        Raises:
            gradio.Error: in words.
        """
        try:
            return await super().process_api(*values, **settings)
        except gr.Error as error:
            error.print_exception = False
            raise
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
    with Page(title=TITLE, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown(
            f'# {TITLE}\n\nModel: `{model}` on `{comparer.device}`. An image is taken at its own '
            f'size, up to {comparer.max_pixels:,} pixels; larger ones are refused. Times: the '
            f'median of {ROUNDS} runs after one to warm up, without merging and with it in turn, '
            'from the normalised image to labels.'
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                image = gr.Image(
                    label='Image',
                    sources=['upload', 'clipboard'],
                    type='filepath',
                    format='png',  # a sample is compared as it is, not re-encoded with a loss
                    image_mode=None,
                    height=260,
                    alt_text='The image to predict',
                )
                sample = gr.Dropdown(
                    list(samples), value=None, label='Sample image', visible=bool(samples)
                )
                # not gr.Radio, whose arrow keys do nothing and whose group has no name
                preset = gr.Dropdown(
                    list(PRESETS), value=FIRST_PRESET, label='Strategy', filterable=False
                )
                sliders = [gr.Slider(**settings) for settings in _sliders(FIRST_PRESET)]
                button = gr.Button('Compare with no merging', variant='primary')
            with gr.Column(scale=5, min_width=280):
                summary = gr.HTML(_status('Choose an image and press the button.'))
                with gr.Row():
                    masks = [_picture(f'Classes {how} merging') for how in ('with', 'without')]
                merge_map = _picture('What was merged in the last block of each stage')

        quick: dict[str, Any] = dict(
            queue=False, show_progress='hidden', api_visibility='private', concurrency_limit=None
        )
        preset.change(
            lambda name: [gr.update(**settings) for settings in _sliders(name)],
            preset, sliders, **quick,
        )  # fmt: skip
        image.upload(lambda: None, None, sample, **quick)
        # not input, which comes twice for one choice
        sample.select(
            for_people(lambda name: Image.fromarray(_sample(comparer, samples, name))),
            sample, image, show_progress='hidden', api_visibility='private',
            concurrency_limit=None,
        )  # fmt: skip
        button.click(
            for_people(
                lambda given, *values: compare(
                    comparer, uploaded(given, image.GRADIO_CACHE), *values
                )
            ),
            [image, preset, *sliders],
            [summary, *masks, merge_map],
            # the payloads as they come: Gradio would decode a damaged image and fail without words
            preprocess=False,
            concurrency_limit=1,
            trigger_mode='once',
            api_visibility='private',
        )
    return page.queue(max_size=WAITING)


def _picture(title: str) -> gr.Image:
    """Puts the title above a picture, of which Gradio's own label would hide a corner."""
    with gr.Column(min_width=280):
        gr.Markdown(f'### {title}')
        return gr.Image(
            label=title, show_label=False, alt_text=title, format='png', interactive=False,
            buttons=['download', 'fullscreen'],
        )  # fmt: skip


def _sliders(preset: str) -> list[dict[str, Any]]:
    """Returns label, range and value of each slider, hidden for a preset without ratios."""
    found = preset_ratios(preset)
    if found is None:
        return [dict(label=label, visible=False) for label in _LABELS]
    return [
        dict(label=label, minimum=0, maximum=limit, value=value, step=RATIO_STEP, visible=True)
        for label, value, limit in zip(_LABELS, *found, strict=True)
    ]


def for_people(call: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a call so that the page shows errors that users can mend; others go to the log."""

    @wraps(call)
    def guarded(*values: Any) -> Any:
        try:
            return call(*values)
        except SegformerPlusPlusError as error:
            raise gr.Error(escape(str(error)), duration=None, print_exception=False) from error
        except Exception as error:
            traceback.print_exc()
            said = f'a fault of the page: {type(error).__name__}; the terminal shows more'
            raise gr.Error(said, duration=None, print_exception=False) from error

    return guarded


def uploaded(given: Any, folder: str) -> Mapping[str, Any] | None:
    """Returns what is given if its file was uploaded: who asks without a browser can name any."""
    path = given.get('path') if isinstance(given, Mapping) else None
    own = (
        isinstance(path, str)
        and Path(os.path.abspath(folder)) in Path(os.path.abspath(path)).parents
    )
    return given if own else None


def compare(
    comparer: Comparer, upload: Mapping[str, Any] | None, preset: str, kv: Any, q: Any
) -> tuple[Any, ...]:
    """Returns the summary, the mask with merging, the mask without, and the merge map."""
    given = upload if isinstance(upload, Mapping) else {}
    path = given.get('path')
    if not isinstance(path, str) or not path:
        raise SegformerPlusPlusError('there is no image yet: upload one or choose a sample')
    if not isinstance(preset, str):
        raise SegformerPlusPlusError(f'{preset!r} is no strategy')
    image = _read(comparer, Path(path), str(given.get('orig_name') or Path(path).name))
    ratios = None if preset_ratios(preset) is None else Ratios(kv, q)
    result = comparer(image, preset, ratios)
    return _summary(result), result.overlay, result.overlay_unmerged, result.merge_map


def _sample(comparer: Comparer, samples: Mapping[str, Path], name: str) -> np.ndarray:
    if name not in samples:
        raise SegformerPlusPlusError('there is no such sample')
    return _read(comparer, samples[name], name)


def _read(comparer: Comparer, path: Path, name: str) -> np.ndarray:
    """Reads an image, which errors call by the name that the user knows."""
    try:
        return comparer.read(path)
    except SegformerPlusPlusError as error:
        raise SegformerPlusPlusError(str(error).replace(str(path), name)) from error


def _status(text: str) -> str:
    return f'<p role="status">{escape(text)}</p>'


def _summary(result: Result) -> str:
    height, width = result.shape
    speed = result.seconds_unmerged / result.seconds
    said = (
        f'{result.preset} at {height}x{width}: {speed:.2f} times as fast as without merging, '
        f'{result.share_changed:.2%} of the pixels change their class.'
    )
    times = {'without merging': result.seconds_unmerged, result.preset: result.seconds}
    if result.preset == BASELINE:
        said = f'none at {height}x{width}: nothing is merged.'
        times = {BASELINE: result.seconds_unmerged}
    rows = ''.join(
        f'<tr><th scope="row">{escape(name)}</th><td>{1000 * seconds:.0f} ms</td></tr>'
        for name, seconds in times.items()
    )
    classes = ''.join(
        f'<li><span class="swatch" style="background: rgb{each.colour}"></span>'
        f'{escape(each.name)} {each.share:.1%}</li>'
        for each in result.classes
    )
    return (
        f'{_status(said)}<table class="times">{rows}</table>'
        f'<ul class="classes" aria-label="Classes with merging">{classes}</ul>'
    )
