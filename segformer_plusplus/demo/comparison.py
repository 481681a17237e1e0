"""Computes what the page shows of one image under a strategy; knows nothing of the page."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ..errors import SegformerPlusPlusError, memory_errors
from ..evaluation.timing import measure
from ..inference import Segmenter
from ..inference.drawing import draw
from ..inference.labels import first_label
from ..inference.merge_maps import (
    merge_map,
    predict_labels,
    the_backbone,
    to_inputs,
    turned,
    without_merging,
)
from ..inference.writing import overlay
from ..loading.images import open_image, reading
from ..patching import apply_token_merging
from ..token_merging import TokenMergingConfig, build_token_merging
from ..token_merging.bipartite import BipartiteSoftMatching2d, highest_ratio
from ..token_merging.config import PRESETS

MAX_PIXELS = 2048 * 1024
"""Of an image, unless another limit is given: Cityscapes' size."""

ROUNDS = 3
"""Timed ones of each model, after one that is not."""


class Ratios(NamedTuple):
    """Holds the shares of the keys and values, and of the queries, that are merged away."""

    kv: float
    q: float


class ClassShare(NamedTuple):
    """Holds the name of a class, its colour (RGB, 0..255), and its share of the pixels."""

    name: str
    colour: tuple[int, int, int]
    share: float


@dataclass(frozen=True)
class Result:
    """Holds what became of one image.

    Attributes:
        preset: the strategy that was asked for.
        shape: height and width of the image.
        overlay: (H, W, 3) uint8 RGB, the classes with merging over the image.
        overlay_unmerged: the same without merging.
        merge_map: the picture of what was merged.
        classes: those with merging, the largest first.
        share_changed: of the pixels, those whose class is another one without merging.
        seconds: from the normalised image to labels, the median.
        seconds_unmerged: the same without merging.
    """

    preset: str
    shape: tuple[int, int]
    overlay: np.ndarray
    overlay_unmerged: np.ndarray
    merge_map: Image.Image
    classes: tuple[ClassShare, ...]
    share_changed: float
    seconds: float
    seconds_unmerged: float


class Comparer:
    """Compares a strategy with no merging on one image at a time, whoever asks.

    Args:
        segmenter: its weights are used under every strategy; images keep their own size.
        max_pixels: larger images are refused.

    Raises:
        SegformerPlusPlusError: the model has no SegFormer backbone, or the limit is below 1.
    """

    def __init__(self, segmenter: Segmenter, max_pixels: int = MAX_PIXELS) -> None:
        if max_pixels < 1:
            raise SegformerPlusPlusError(f'max_pixels is {max_pixels}; give 1 or more')
        the_backbone(segmenter.model)
        self.segmenter = segmenter
        self.max_pixels = max_pixels
        self.device: torch.device = next(segmenter.model.parameters()).device
        # a strategy is a state of the model, and another request would disturb the times
        self._one_at_a_time = Lock()

    def read(self, path: Path) -> np.ndarray:
        """Reads an image as (H, W, 3) uint8 RGB.

        Raises:
            SegformerPlusPlusError: no image, damaged, or larger than allowed.
        """
        check_size(path, self.max_pixels)
        return np.ascontiguousarray(turned(self.segmenter.reader.file(path)))

    def __call__(self, image: np.ndarray, preset: str, ratios: Ratios | None = None) -> Result:
        """Predicts with and without merging, draws what was merged, and times both in turn.

        Args:
            image: (H, W, 3) uint8 RGB.
            preset: see :func:`make_strategy`, as for the ratios.

        Raises:
            SegformerPlusPlusError: a strategy that is refused, an image that the model would pad,
                or too little memory.
        """
        strategy = make_strategy(preset, ratios)
        model = self.segmenter.model
        with self._one_at_a_time, memory_errors('the image', 'take a smaller one'):
            apply_token_merging(model, strategy)
            inputs = to_inputs(model, image)

            def merged() -> None:
                predict_labels(model, inputs)

            def plain() -> None:
                with without_merging(model):
                    predict_labels(model, inputs)

            with torch.inference_mode():
                # here, where running out of memory gets its advice, and not in measure
                plain()
                merged()
                calls = {'plain': plain, 'merged': merged}
                times = measure(calls, ROUNDS, warmup=0, device=self.device)
            maps = merge_map(model, image, inputs)
        assert maps.labels is not None and maps.labels_unmerged is not None
        assert maps.share_changed is not None
        return Result(
            preset=preset,
            shape=(image.shape[0], image.shape[1]),
            overlay=self._paint(image, maps.labels),
            overlay_unmerged=self._paint(image, maps.labels_unmerged),
            merge_map=draw(maps, palette=self.segmenter.palette.tolist()),
            classes=self._classes(maps.labels),
            share_changed=maps.share_changed,
            seconds=times['merged'].median,
            seconds_unmerged=times['plain'].median,
        )

    def _paint(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        painted = overlay(turned(image), labels, self.segmenter.palette)
        return np.ascontiguousarray(painted[..., ::-1])

    def _classes(self, labels: np.ndarray) -> tuple[ClassShare, ...]:
        found, counts = np.unique(labels, return_counts=True)
        names, palette = self.segmenter.classes, self.segmenter.palette.tolist()
        if first_label(len(names)):
            names, palette = ['background', *names], [[0, 0, 0], *palette]
        return tuple(
            ClassShare(names[found[i]], tuple(palette[found[i]]), counts[i] / labels.size)
            for i in np.argsort(-counts, kind='stable')
        )


def preset_ratios(preset: str) -> tuple[Ratios, Ratios] | None:
    """Returns the ratios of a preset and the largest that it takes; None if it has none."""
    ratios, limits = {}, {}
    for stage in build_token_merging(preset).stages:
        for role, merger in (('kv', stage.kv), ('q', stage.q)):
            if isinstance(merger, BipartiteSoftMatching2d):
                ratios[role], limits[role] = merger.ratio, highest_ratio(merger.stride)
    return (Ratios(**ratios), Ratios(**limits)) if len(ratios) == 2 else None


def make_strategy(preset: str, ratios: Ratios | None = None) -> TokenMergingConfig:
    """Makes the strategy of a preset, with other ratios in every stage that has them.

    Raises:
        TokenMergingError: an unknown preset, or a ratio that its strategy refuses.
        SegformerPlusPlusError: ratios for a preset that has none.
    """
    build_token_merging(preset)
    if ratios is None:
        return preset
    if preset_ratios(preset) is None:
        raise SegformerPlusPlusError(f'{preset!r} takes no ratios')
    changed = copy.deepcopy(PRESETS[preset])
    for stage in changed['stages']:
        for role, settings in stage.items():
            settings['ratio'] = getattr(ratios, role)
    return build_token_merging(changed)


def check_size(path: Path, max_pixels: int) -> None:
    """Refuses what is no image, or one with too many pixels, before it is decoded."""
    advice = (
        f'at most {max_pixels:,} are taken; make it smaller, or start the page with a larger '
        '--max-pixels'
    )
    with reading('image', path):
        try:
            with open_image(path) as image:
                width, height = image.size
        except Image.DecompressionBombError as error:
            raise SegformerPlusPlusError(f'image {path} has too many pixels: {advice}') from error
    if width * height > max_pixels:
        raise SegformerPlusPlusError(
            f'image {path} is {width}x{height}, {width * height:,} pixels: {advice}'
        )
