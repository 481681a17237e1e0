"""Exported files in a benchmark: what runs them, and which images they take."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...errors import SegformerPlusPlusError
from ...export.formats import Loader
from ...inference.configs import backbone_settings
from ...inference.exported import ExportedGraph, sizes_in_words, takes_size
from .contenders import Contender


def is_file(config: Any) -> bool:
    """Says whether a config is that of an exported file."""
    return bool(backbone_settings(config).get('type') == ExportedGraph.__name__)


def check_images(files: Mapping[str, Any], shape: tuple[int, int], batch_size: int) -> None:
    """Raises a SegformerPlusPlusError unless every file takes these images, so many at a time."""
    for name, config in files.items():
        graph = config.model.backbone
        if graph.shape and not takes_size(shape, graph.shape, graph.get('steps')):
            raise SegformerPlusPlusError(
                f'--shape {"x".join(map(str, shape))}: {name} takes '
                f'{sizes_in_words(graph.shape, graph.get("steps"))}'
            )
        if graph.get('batch_size', 1) not in (None, batch_size):
            raise SegformerPlusPlusError(
                f'--batch-size {batch_size}: {name} takes {graph.batch_size}'
            )


class ExportedModel(Contender):
    """Runs an exported file in one runtime, as a whole: its output stands for features and logits.

    Args:
        module: as ``segformer_plusplus.inference.opening.open_model`` opens the file.
        runtime: by the name of its module.
        load: the file for it.
        images: (B, C, H, W), on which alone it runs: those of a file that normalises by itself are
            made of them, outside of the clock.
    """

    uses_torch = False

    def __init__(self, module: nn.Module, runtime: str, load: Loader, images: Tensor) -> None:
        model: Any = module
        super().__init__(module, model.backbone)
        self._model, self._load = model, load
        self.segments = hasattr(model, 'decode_head')
        self.decode_head = getattr(model, 'decode_head', None)
        self.file, self.runtime = str(model.backbone.file), runtime
        self.normalises = model.backbone.layout == 'NHWC'
        self.images = model.backbone.as_taken(images * 64 + 128 if self.normalises else images)
        (self._run,) = load(1)

    def features(self, images: Tensor) -> Tensor:
        return self._run(self.images)

    def head(self, features: Tensor) -> Tensor:
        return features

    def labels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        if self._model.backbone.output == 'labels':
            return logits
        return self._model.labels_of(logits, size)

    def workers(self, images: Tensor, calls: int) -> list[Callable[[], Any]]:
        copies = [copy.copy(self) for _ in range(calls)]
        for each, run in zip(copies, self._load(calls), strict=True):
            each._run = run
        return [partial(each.predict, images) for each in copies]
