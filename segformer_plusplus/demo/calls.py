"""Holds what the controls of the page call, and how they tell of errors. Needs Gradio."""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from mmengine.logging import print_log
from PIL import Image

from ..errors import SegformerPlusPlusError
from . import words
from .comparison import Comparer
from .strategies import Ratios, preset_ratios, read_address, sliders

SHOWN = 24
"""Samples that get a thumbnail; a link can name the others."""

SAME = gr.skip()
"""In the place of an output that stays as it is."""

ERROR = object()
"""In the place of an output that says what went wrong."""

_THUMBNAIL = 240, 160


def for_people(call: Callable[..., Any], *otherwise: Any) -> Callable[..., Any]:
    """Wraps a call so that the page shows errors that users can mend; others go to the log.

    Args:
        call: returns the outputs.
        otherwise: outputs after an error, ``ERROR`` in the place of its words.
    """

    @wraps(call)
    def guarded(*values: Any) -> Any:
        try:
            return call(*values)
        except SegformerPlusPlusError as error:
            said = str(error)
        except Exception as error:  # noqa: BLE001 - of whatever a visitor does
            traceback.print_exc()
            said = f'a fault of the page: {type(error).__name__}; the terminal shows more'
        outputs = tuple(words.error(said) if each is ERROR else each for each in otherwise)
        return outputs if len(outputs) > 1 else outputs[0]

    return guarded


class Calls:
    """Answers the controls of the page; what it returns are the outputs, in their order.

    Args:
        comparer: computes what is shown.
        samples: images to choose from, by the name that is shown.

    Attributes:
        thumbnails: pictures and names of the first samples that can be read.
        folder: where uploads lie.
    """

    def __init__(self, comparer: Comparer, samples: Mapping[str, Path]) -> None:
        self._comparer, self._samples = comparer, samples
        self.thumbnails = list(islice(self._thumbnails(), SHOWN))
        self.folder = ''

    def _thumbnails(self) -> Iterator[tuple[Image.Image, str]]:
        for name, path in self._samples.items():
            try:
                picture = Image.fromarray(self._comparer.read(path, name).image)
            except SegformerPlusPlusError as error:
                print_log(f'no thumbnail: {error}', logger='current', level=logging.WARNING)
                continue
            picture.thumbnail(_THUMBNAIL)
            yield picture, name

    def take(self, given: Any) -> tuple[Any, ...]:
        """Returns an uploaded image as it will be compared, no sample, and what is said of it."""
        return self._read(*self._uploaded(given), sample='')

    def choose(self, event: gr.SelectData) -> tuple[Any, ...]:
        """Returns a sample, its name, and what is said of it."""
        name = self.thumbnails[event.index][1]
        return self._read(self._samples[name], name, sample=name)

    def _read(self, path: Path, name: str, sample: str) -> tuple[np.ndarray, str, str]:
        photograph = self._comparer.read(path, name)
        return photograph.image, sample, words.note(photograph.notes)

    def explain(self, preset: Any, kv: Any, q: Any) -> str:
        """Returns what a strategy merges, with the ratios of the sliders if it has any."""
        return words.strategy(self._comparer.explain(preset, _ratios(preset, kv, q)))

    def load(self, request: gr.Request) -> tuple[Any, ...]:
        """Returns what the address asks for, and says what of it made no sense."""
        comparer = self._comparer
        query = dict(request.query_params)
        asked = read_address(query, comparer.presets, self._samples, comparer.first)
        image: tuple[Any, ...] = SAME, SAME, SAME
        ignored = list(asked.ignored)
        if asked.sample:
            try:
                image = self._read(self._samples[asked.sample], asked.sample, asked.sample)
            except SegformerPlusPlusError as error:
                ignored.append(str(error))
        said = words.error(f'ignored in the link: {"; ".join(ignored)}') if ignored else ''
        chosen: tuple[Any, ...] = SAME, SAME, SAME
        if (asked.preset, asked.ratios) != (comparer.first, None):
            settings = sliders(asked.preset, asked.ratios)
            chosen = asked.preset, *(gr.update(**each) for each in settings)
        # what a visitor chose before this answer comes stays, unless the address says otherwise
        return *chosen, *image, said

    def compare(self, given: Any, preset: Any, kv: Any, q: Any) -> tuple[Any, ...]:
        """Returns no error, summary, both predictions, what changed, details, and merge maps."""
        path, name = self._uploaded(given)
        ratios = _ratios(preset, kv, q)
        result = self._comparer(self._comparer.read(path, name).image, preset, ratios)
        settings = json.dumps(
            [given['path'], preset, kv, q], ensure_ascii=False, separators=(',', ':')
        )
        maps = [(words.stage(each), np.vstack(list(each.values()))) for each in result.stages]
        return (
            '',
            words.summary(result, settings, self._comparer),
            (result.outcome.unmerged, result.outcome.merged),
            result.outcome.changed,
            words.details(result, self._comparer),
            *(each for pair in maps for each in pair),
        )

    def _uploaded(self, given: Any) -> tuple[Path, str]:
        """Returns file and name of an upload: who asks without a browser can name any file.

        Raises:
            SegformerPlusPlusError: there is none, or it was not uploaded.
        """
        path = given.get('path') if isinstance(given, Mapping) else None
        folder = Path(os.path.abspath(self.folder))
        if not isinstance(path, str) or folder not in Path(os.path.abspath(path)).parents:
            raise SegformerPlusPlusError('there is no image yet: upload one or choose a sample')
        return Path(path), str(given.get('orig_name') or Path(path).name)


def _ratios(preset: Any, kv: Any, q: Any) -> Ratios | None:
    if not isinstance(preset, str):
        raise SegformerPlusPlusError(f'{preset!r} is no strategy')
    return None if preset_ratios(preset) is None else Ratios(kv, q)
