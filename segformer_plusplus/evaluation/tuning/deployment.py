"""Searches how a model is deployed: the tuner with precision and runtime in the place of stages."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import SegformerPlusPlusError
from ...export import export_model
from ...export.formats import find_format
from ...inference.exported import ExportedFile
from ...token_merging import BASELINE
from ..fidelity import Fidelity
from ..fidelity.base import Variant
from .space import Setting, Space

EAGER = ('torch', 'fp32')
"""The model as it is, in PyTorch."""

WAYS = (
    *(('openvino', precision) for precision in ('int8', 'bf16', 'fp32')),
    *(('onnx', precision) for precision in ('int8', 'fp32')),
)
"""Formats and precisions that can be faster than that on a CPU, the most promising first."""

_PRESETS = ('weighted', BASELINE, 'weighted-fast', 'hq', 'fast', '2x2')
"""In the order in which they are tried; downsampling wants a training."""


def find_ways() -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Returns what can be written and run here, and why the rest cannot, by 'FORMAT PRECISION'."""
    ways, left_out = [EAGER], {}
    for kind, precision in WAYS:
        try:
            find_format(kind).require()
            find_format(kind).check_precision(precision)
        except SegformerPlusPlusError as error:
            left_out[f'{kind} {precision}'] = str(error)
        else:
            ways.append((kind, precision))
    return ways, left_out


class DeploymentSpace(Space):
    """Holds every preset in every format and precision.

    Args:
        ways: of ``find_ways``.
        num_stages: of the backbone.
    """

    def __init__(self, ways: Sequence[tuple[str, str]], num_stages: int = 4) -> None:
        self.num_stages = num_stages
        fitting = set(Space.presets(self))
        presets = [name for name in _PRESETS if name in fitting]
        self.sites: dict[str, tuple[Any, ...]] = dict(preset=tuple(presets), way=tuple(ways))
        self.size = len(presets) * len(ways)

    def build(self, choices: Mapping[str, int]) -> Setting:
        """Returns the setting of these choices."""
        preset, way = (self.sites[site][choices[site]] for site in self.sites)
        if way == EAGER:
            return preset
        return dict(token_merging=preset, format=way[0], precision=way[1])

    def find(self, setting: Setting) -> dict[str, int] | None:
        """Returns the choices that make this setting, None where it is not in the space."""
        preset, way = _parts(setting)
        if preset not in self.sites['preset'] or way not in self.sites['way']:
            return None
        return {'preset': self.sites['preset'].index(preset), 'way': self.sites['way'].index(way)}

    def identify(self, setting: Setting) -> str:
        """Returns a text that is equal for equal settings."""
        return json.dumps(setting, sort_keys=True)

    def presets(self) -> Iterator[Setting]:
        """Yields all of it, the model as it is first, then every way of the best preset."""
        yield BASELINE
        for preset, way in itertools.product(*(range(len(each)) for each in self.sites.values())):
            yield self.build(dict(preset=preset, way=way))

    def singles(self) -> Iterator[dict[str, int]]:
        """Yields nothing more."""
        return iter(())


class Exporter:
    """Turns settings into files, to be measured in the place of the model.

    Args:
        fidelity: of the model that is exported, on the images that files are calibrated on.
        folder: gets the files; those that are there already are taken.
    """

    def __init__(self, fidelity: Fidelity[Any], folder: Path) -> None:
        self._fidelity = fidelity
        self._folder = folder

    def __call__(self, setting: Setting) -> Variant:
        """Returns the file of a setting; or the setting itself, where it is of the model.

        Raises:
            SegformerPlusPlusError: see ``...export.export_model``.
        """
        if not isinstance(setting, dict):
            return setting
        path = self._folder / file_name(setting)
        if not path.exists():
            precision = setting['precision']
            export_model(
                self._fidelity.model,
                path,
                format=setting['format'],
                shape=self._fidelity.shape,
                token_merging=setting['token_merging'],
                precision=precision,
                calibration=self._fidelity.inputs() if precision == 'int8' else None,
            )
        return ExportedFile(str(path))


def keep_file(setting: Mapping[str, Any], folder: Path, out: Path) -> Path:
    """Moves the file of a setting, with what belongs to it, from one folder to another."""
    name = file_name(setting)
    for each in sorted(folder.glob(f'{Path(name).stem}.*')):
        shutil.move(each, out / each.name)
    return out / name


def file_name(setting: Mapping[str, Any]) -> str:
    """Returns what the file of a setting is called, such as 'weighted_openvino_int8.xml'."""
    kind, precision = setting['format'], setting['precision']
    return f'{setting["token_merging"]}_{kind}_{precision}{find_format(kind).suffix}'


def _parts(setting: Setting) -> tuple[Any, tuple[str, str]]:
    if isinstance(setting, dict):
        return setting['token_merging'], (setting['format'], setting['precision'])
    return setting, EAGER
