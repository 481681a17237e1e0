"""Measures what each preset costs a trained model in accuracy and gains in speed."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from ...errors import SegformerPlusPlusError
from ...inference.configs import load_config
from ...inference.exported import ExportedFile, ExportedGraph
from ...token_merging import BASELINE
from ..presets import Presets, check_presets, read_presets, spell_out
from ..results import MEGABYTES, MILLISECONDS, SPEED_UP, ResultsTable, Row, measure_columns
from ..timing import Timing, device_name
from .base import ROUNDS, WARMUP, Fidelity
from .opening import open_fidelity


@dataclass
class Measurement:
    """Measures presets on a model; what was measured before an interruption stays.

    Attributes:
        presets: strategies by name, no merging first.
        skip_unfit: leave out presets that the model cannot run; otherwise it is an error.
        left_out: why the model cannot run a preset, by its name.
        failed: why images could not be predicted, by the name of the preset.
    """

    fidelity: Fidelity[Any]
    presets: Presets
    skip_unfit: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def run(self, rounds: int = ROUNDS, warmup: int = WARMUP) -> None:
        """Tries each preset on one image, times them in turn, then predicts all images under each.

        One that fails on a later image is noted in ``failed``; the others are measured.

        Raises:
            SegformerPlusPlusError: see ``base.Fidelity.measure``, of no merging; a preset
                that the model cannot run is named before anything is measured.
        """
        fitting = {name: each for name, each in self.presets.items() if self._fits(name)}
        self.fidelity.time(fitting, rounds, warmup, taken=self.seconds)
        for name, token_merging in fitting.items():
            try:
                self.values[name] = self.fidelity.measure(token_merging)
            except SegformerPlusPlusError as error:
                if name == BASELINE:
                    raise
                self.failed[name] = str(error)
                print_log(f'preset {name!r}: {error}', logger='current', level=logging.ERROR)

    def _fits(self, name: str) -> bool:
        try:
            self.fidelity.check(self.presets[name])
        except SegformerPlusPlusError as error:
            if name == BASELINE:
                raise
            if not self.skip_unfit:
                raise SegformerPlusPlusError(f'preset {name!r}: {error}') from error
            self.left_out[name] = str(error)
            print_log(
                f'preset {name!r} is left out: {error}', logger='current', level=logging.WARNING
            )
        return name not in self.left_out

    def rows(self) -> list[Row]:
        """Returns a row for each preset of which something was measured."""
        timings = {name: Timing(tuple(taken)) for name, taken in self.seconds.items() if taken}
        return [
            Row.timed(
                self._name(name),
                timings.get(name),
                timings.get(BASELINE),
                token_merging=spell_out(self.presets[name]),
                values=values,
                drop=self.fidelity.drop(values) if values else None,
                error=self.failed.get(name),
                more=_more(self.presets[name]),
            )
            for name in self.presets
            if (values := self.values.get(name, {})) or name in timings
        ]

    def _name(self, preset: str) -> str:
        """Returns what a row is called: where the model is a file, that is the reference."""
        graph = getattr(self.fidelity.model, 'backbone', None)
        if preset == BASELINE and isinstance(graph, ExportedGraph):
            return Path(graph.file).name
        return preset

    def table(self, command: str = '') -> ResultsTable:
        """Returns what was measured until now, by this command."""
        fidelity, rows = self.fidelity, self.rows()
        return ResultsTable(
            rows,
            [*measure_columns(rows, fidelity.main_measure), MILLISECONDS, SPEED_UP, MEGABYTES],
            caption='; '.join(self._caption()) + '.',
            command=command,
            more=dict(main_measure=fidelity.main_measure, left_out=dict(self.left_out)),
        )

    def _caption(self) -> list[str]:
        fidelity = self.fidelity
        height, width = fidelity.shape
        parts = [fidelity.describe()]
        if rounds := max(map(len, self.seconds.values()), default=0):
            parts.append(
                f'speed: batch 1, {height}x{width}, {fidelity.timed}, median of {rounds} '
                f'{"rounds" if rounds > 1 else "round"} in turn on {device_name(fidelity.device)}, '
                f'torch {torch.__version__} in float32'
            )
        parts += [
            f'{name}: {each["format"]}, {each["precision"]}'
            for name, preset in self.presets.items()
            if (each := _more(preset))
        ]
        if self.left_out:
            parts.append('left out, as the model cannot run it: ' + ', '.join(self.left_out))
        if self.failed:
            parts.append('failed while images were predicted: ' + ', '.join(self.failed))
        return parts


def _more(preset: Any) -> dict[str, Any]:
    return preset.record if isinstance(preset, ExportedFile) else {}


def measure_fidelity(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str] | None = None,
    presets: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    rounds: int = ROUNDS,
    warmup: int = WARMUP,
    cfg_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[Row]:
    """Measures accuracy and speed of a trained model under presets.

        for row in measure_fidelity('configs/...py', 'weights.pth', ['hq', 'fast']):
            print(row.name, row.values['mIoU'], row.speed_up)

    Args:
        config: of mmseg or mmpose.
        checkpoint: its weights; None for a model that brings them.
        presets: names and files (see ``read_presets``), or what ``token_merging``
            takes, by name. None: all presets that the model can run. No merging is always the
            first row.
        rounds: of timing, all presets in turn.
        warmup: rounds before those.
        cfg_options: dotted keys of the config and their new values.
        options: the fields of ``opening.Options``, such as ``limit=20``.

    Returns:
        One row per preset; of one that fails on the way, ``values`` is empty and ``error`` says
        why.

    Raises:
        SegformerPlusPlusError: see ``opening.open_fidelity``; a wrong preset is refused
            before the model is loaded.
    """
    if 'strategies' in options:
        warnings.warn("'strategies' is 'presets' now", FutureWarning, stacklevel=2)
        presets = options.pop('strategies')
    cfg = load_config(config, cfg_options)  # it may import what a preset names
    checked = check_presets(presets) if isinstance(presets, Mapping) else read_presets(presets)
    fidelity = open_fidelity(cfg, checkpoint, **options)
    measurement = Measurement(fidelity, checked, skip_unfit=presets is None)
    measurement.run(rounds, warmup)
    return measurement.rows()
