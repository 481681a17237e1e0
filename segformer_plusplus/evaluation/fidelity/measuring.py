"""Every strategy on one trained model: what it costs in accuracy, and what it gains in speed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ...errors import SegformerPlusPlusError
from ...inference.opening import read_config
from ...token_merging import TokenMergingConfig
from ..timing import Timing
from .base import REFERENCE, ROUNDS, WARMUP, Fidelity
from .opening import open_fidelity
from .strategies import Strategies, check_strategies, read_strategies, spell_out


@dataclass(frozen=True)
class FidelityRow:
    """One strategy.

    Attributes:
        strategy: its name.
        token_merging: what it is, spelt out.
        values: see :meth:`~.base.Fidelity.measure`; empty if its images were not predicted.
        drop: how much worse than no merging in the main measure, see
            :meth:`~.base.Fidelity.drop`.
        median_seconds: of one image; None if it was not timed.
        quartiles_seconds: the first and the third.
        speed_up: against no merging.
        error: why there are no values, if predicting the images failed.
    """

    strategy: str
    token_merging: TokenMergingConfig
    values: dict[str, float]
    drop: float | None
    median_seconds: float | None
    quartiles_seconds: tuple[float, float] | None
    speed_up: float | None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass
class Measurement:
    """Strategies on a model; what was measured before an interruption stays.

    Attributes:
        fidelity: of the model.
        strategies: by name, no merging first.
        skip_unfit: leave out strategies that the model cannot run; otherwise it is an error.
        left_out: the reasons, by strategy.
        failed: the reasons why images could not be predicted, by strategy.
        values: what was measured.
        seconds: what was timed.
    """

    fidelity: Fidelity[Any]
    strategies: Strategies
    skip_unfit: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def run(self, rounds: int = ROUNDS, warmup: int = WARMUP) -> None:
        """Try each strategy on one image, time them in turn, then predict all images under each.

        One that fails on a later image is noted in ``failed``; the others are measured.

        Raises:
            SegformerPlusPlusError: see :meth:`~.base.Fidelity.measure`, of no merging; a strategy
                that the model cannot run is named before anything is measured.
        """
        fitting = {name: each for name, each in self.strategies.items() if self._fits(name)}
        self.fidelity.time(fitting, rounds, warmup, taken=self.seconds)
        for name, token_merging in fitting.items():
            try:
                self.values[name] = self.fidelity.measure(token_merging)
            except SegformerPlusPlusError as error:
                if name == REFERENCE:
                    raise
                self.failed[name] = str(error)
                print_log(f'strategy {name!r}: {error}', logger='current', level=logging.ERROR)

    def _fits(self, name: str) -> bool:
        try:
            self.fidelity.check(self.strategies[name])
        except SegformerPlusPlusError as error:
            if name == REFERENCE:
                raise
            if not self.skip_unfit:
                raise SegformerPlusPlusError(f'strategy {name!r}: {error}') from error
            self.left_out[name] = str(error)
            print_log(
                f'strategy {name!r} is left out: {error}', logger='current', level=logging.WARNING
            )
        return name not in self.left_out

    def rows(self) -> list[FidelityRow]:
        """Of the strategies of which something was measured."""
        return [self._row(name) for name in self.strategies if self._is_known(name)]

    def _is_known(self, name: str) -> bool:
        return bool(self.values.get(name) or self.seconds.get(name))

    def _row(self, name: str) -> FidelityRow:
        values = self.values.get(name, {})
        timing, baseline = self._timing(name), self._timing(REFERENCE)
        return FidelityRow(
            strategy=name,
            token_merging=spell_out(self.strategies[name]),
            values=values,
            drop=self.fidelity.drop(values) if values else None,
            median_seconds=timing.median if timing else None,
            quartiles_seconds=timing.quartiles if timing else None,
            speed_up=baseline.median / timing.median if timing and baseline else None,
            error=self.failed.get(name),
        )

    def _timing(self, name: str) -> Timing | None:
        seconds = self.seconds.get(name)
        return Timing(tuple(seconds)) if seconds else None


def measure_fidelity(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str],
    strategies: Sequence[str] | Mapping[str, TokenMergingConfig] | None = None,
    *,
    rounds: int = ROUNDS,
    warmup: int = WARMUP,
    device: str | None = None,
    images: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    fine_classes: Sequence[str] | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[FidelityRow]:
    """Measure accuracy and speed of a trained model under strategies.

        for row in measure_fidelity('configs/...py', 'weights.pth', ['hq', 'fast']):
            print(row.strategy, row.values['mIoU'], row.speed_up)

    Args:
        config: of mmseg or mmpose.
        checkpoint: its weights.
        strategies: presets and files (see :func:`~.strategies.read_strategies`), or strategies by
            name. None: all presets that the model can run. No merging is always the first row.
        rounds: of timing, all strategies in turn.
        warmup: rounds before those.
        device: this and the rest: see :func:`~.opening.open_fidelity`.
        images: a folder in place of the config's test set.
        limit: the first so many images.
        fine_classes: that 'mIoU_fine' averages.
        cfg_options: dotted keys of the config and their new values.
        progress: show bars.

    Returns:
        One row per strategy; of one that fails on the way, ``values`` is empty and ``error`` says
        why.

    Raises:
        SegformerPlusPlusError: see :func:`~.opening.open_fidelity`; a wrong strategy is refused
            before the model is loaded.
    """
    cfg = read_config(config, cfg_options)  # it may import what a strategy names
    if isinstance(strategies, Mapping):
        checked = check_strategies(strategies)
    else:
        checked = read_strategies(strategies)
    fidelity = open_fidelity(
        cfg,
        checkpoint,
        device=device,
        images=images,
        limit=limit,
        fine_classes=fine_classes,
        progress=progress,
    )
    measurement = Measurement(fidelity, checked, skip_unfit=strategies is None)
    measurement.run(rounds, warmup)
    return measurement.rows()
