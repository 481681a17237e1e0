"""Runs segformer-plusplus fidelity: measures what presets cost a trained model, and gain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from mmengine.logging import MMLogger
from rich.console import Console

from ..errors import SegformerPlusPlusError
from ..evaluation.fidelity.base import ROUNDS, WARMUP
from ..evaluation.fidelity.measuring import Measurement
from ..evaluation.fidelity.opening import Options, open_fidelity
from ..evaluation.plots import check_plot_path, draw_table
from ..evaluation.presets import read_presets
from ..evaluation.results import ResultsTable
from ..evaluation.timing import describe_environment
from ..export.formats import is_exported
from ..files import check_writable, write_json, write_text
from ..inference.opening import check_device
from .given import read_weights
from .guard import INTERRUPTED, interruptible
from .options import CfgOptions, Flat, Positive, command, command_line


@dataclass(frozen=True)
class Outputs:
    """Files beside the table on the terminal.

    Attributes:
        json: everything, with the presets spelt out.
        markdown: the table.
        plot: accuracy over speed-up.
    """

    json: str | None = None
    markdown: str | None = None
    plot: str | None = None

    def check(self) -> None:
        """Raises for what cannot be written, before hours are spent."""
        for path in filter(None, (self.json, self.markdown, self.plot)):
            check_writable(path)
        if self.plot:
            check_plot_path(self.plot)

    def write(self, table: ResultsTable, arguments: Mapping[str, Any], title: str) -> None:
        """Writes all of them; one that fails leaves the others, and its error comes last."""
        writers: list[Callable[[], None]] = []
        if self.json:
            beside = dict(arguments=arguments, environment=describe_environment())
            writers.append(partial(write_json, self.json, beside | table.to_json()))
        if self.markdown:
            writers.append(partial(write_text, self.markdown, table.to_markdown()))
        if self.plot and any(row.values and row.speed_up for row in table.rows):
            writers.append(partial(draw_table, self.plot, table, title))
        errors = []
        for write in writers:
            try:
                write()
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]


@command
@interruptible()
def main(
    config: str,
    checkpoint: str | None = None,
    /,
    *,
    token_merging: Annotated[
        list[str] | None, Parameter(name=['--token-merging', '--strategies'])
    ] = None,
    rounds: Positive = ROUNDS,
    options: Annotated[Options, Flat] = Options(),
    outputs: Annotated[Outputs, Flat] = Outputs(),
    cfg_options: CfgOptions = None,
) -> int:
    """Measure what token merging costs a trained model in accuracy, and what it gains in speed.

    The same weights predict the same images under one preset after the other. Segmentation: mIoU
    as segformer-plusplus test says it, mIoU of the thin and small classes, and how many pixels get
    another label than without merging. Pose: PCK, and by how many pixels keypoints move.

    Exit code: 0, all is measured; 2, the call is wrong or a preset failed; 130, interrupted. What
    was measured before is printed and written all the same.

    Args:
        config: name of a model, see segformer-plusplus models; or a config file.
        checkpoint: weights, of any library that the package reads; a named model has its own.
        token_merging: presets, or files that hold one: Python with token_merging = ..., or JSON
            with its content; the row has the name of the file; or the same model exported to
            files, with their precisions. No merging is always measured, first (default: all
            presets that the model can run).
        rounds: of timing, all presets in turn, after two to warm up.
    """
    outputs.check()
    if options.device:
        check_device(options.device)
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # init_weights lists parameters
    console = Console()
    cfg, checkpoint = read_weights(config, checkpoint, cfg_options)
    # a file has one strategy, its own
    presets = read_presets(token_merging or ([] if is_exported(checkpoint) else None))
    measurement: Measurement | None = None
    try:
        fidelity = open_fidelity(cfg, checkpoint, **asdict(options))
        measurement = Measurement(fidelity, presets, skip_unfit=token_merging is None)
        measurement.run(rounds, WARMUP)
    except KeyboardInterrupt:
        console.print('interrupted', highlight=False)
        return INTERRUPTED
    finally:
        if measurement is not None and measurement.rows():
            table = measurement.table(command_line())
            console.print(table.to_rich())
            console.print(table.caption, highlight=False, markup=False)
            arguments = dict(
                config=config, checkpoint=checkpoint, token_merging=token_merging, rounds=rounds,
                cfg_options=cfg_options, **asdict(options),
            )  # fmt: skip
            outputs.write(table, arguments, Path(config).stem)
    if measurement.failed:
        reasons = (f'preset {name!r}: {each}' for name, each in measurement.failed.items())
        raise SegformerPlusPlusError('; '.join(reasons))
    return 0
