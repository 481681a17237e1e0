"""Compares exported files with the first of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np

from ..errors import SegformerPlusPlusError
from ..evaluation.timing import Call
from ..inference.exported import exported_config
from ..inference.predictor import Predictor
from .comparison import MAX_PIXELS, Comparer, Outcome, Result
from .strategies import Ratios

Kind = TypeVar('Kind', bound=Predictor[Any])


class FileComparer(Comparer, Generic[Kind]):
    """Compares a file with the first one, which may be the only one.

    Args:
        predictors: by the name of the file, the reference first.
        max_pixels: see ``comparison.Comparer``.
    """

    kind = 'File'

    def __init__(self, predictors: Mapping[str, Kind], max_pixels: int = MAX_PIXELS) -> None:
        names = list(predictors)
        super().__init__(predictors[names[0]], max_pixels)
        self._predictors = predictors
        self.presets = {
            name: exported_config(each.model.backbone.file).pretrained_model.said.partition(': ')[2]
            for name, each in predictors.items()
        }
        self.baseline = self.reference = names[0]
        self.first = names[-1]
        self.sides = f'by {names[0]}', 'by the chosen file'
        self.about = f'What is chosen is compared with `{names[0]}`.'

    def explain(self, preset: str, ratios: Ratios | None = None) -> list[str]:
        if preset not in self.presets:
            raise SegformerPlusPlusError(
                f'{preset!r} is none of the files {", ".join(self.presets)}'
            )
        return []

    def _compare(self, image: np.ndarray, preset: str, ratios: Ratios | None) -> Result:
        old, new = self._predictors[self.baseline], self._predictors[preset]
        seconds_of_first, seconds = self._time(self._call(old, image), self._call(new, image))
        return Result(preset, self._outcome(image, old, new), (), seconds, seconds_of_first)

    @abstractmethod
    def _call(self, predictor: Kind, image: np.ndarray) -> Call:
        """Prepares what is timed: a prediction for an image (H, W, 3)."""

    @abstractmethod
    def _outcome(self, image: np.ndarray, old: Kind, new: Kind) -> Outcome:
        """Shows the predictions of both for an image (H, W, 3)."""
