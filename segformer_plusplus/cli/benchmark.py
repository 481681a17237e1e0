"""Runs segformer-plusplus benchmark: measures time, memory and arithmetic of models."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console

from ..errors import SegformerPlusPlusError
from ..evaluation.benchmark.comparison import Comparison, Options, Setting
from ..evaluation.benchmark.report import (
    break_even_lines,
    check_lines,
    result_table,
    run_title,
    stage_table,
)
from ..evaluation.plots import check_plot_path, draw_benchmark
from ..evaluation.presets import read_preset
from ..evaluation.timing import describe_environment
from ..files import check_writable, write_json
from ..inference.configs import backbone_settings, load_config
from ..inference.opening import SEED
from .guard import INTERRUPTED, interruptible
from .options import CfgOptions, Flat, Positives, Shapes, command

ALLOCATOR = (
    'MALLOC_TOP_PAD_',
    'MALLOC_MMAP_MAX_',
    'MALLOC_MMAP_THRESHOLD_',
    'LD_PRELOAD',
    'PYTORCH_CUDA_ALLOC_CONF',
    'PYTORCH_ALLOC_CONF',
)
"""Settings of the allocators, which decide how dear large temporary tensors are."""

_MOST_THREADS = 1024


@dataclass(frozen=True)
class Conditions:
    """Under which conditions: of several values, every combination is measured.

    Attributes:
        shape: height and width of the images.
        batch_size: images of one call.
        threads: of PyTorch, and of OpenVINO (default: those of torch).
    """

    shape: Shapes = ((1024, 1024),)  # type: ignore[assignment]
    batch_size: Positives = (1,)  # type: ignore[assignment]
    threads: Positives | None = None

    def __post_init__(self) -> None:
        most = max(self.threads or [1])
        if most > _MOST_THREADS:  # beyond what libraries can start, they fail without words
            raise SegformerPlusPlusError(f'--threads {most}: give at most {_MOST_THREADS}')

    def settings(self) -> list[Setting]:
        """Returns every combination."""
        return [
            Setting(shape, batch_size, threads)
            for threads in self.threads or [torch.get_num_threads()]
            for batch_size in self.batch_size
            for shape in self.shape
        ]


@command
@interruptible()
def main(
    config: str,
    /,
    *configs: str,
    token_merging: list[str] | None = None,
    conditions: Annotated[Conditions, Flat] = Conditions(),
    options: Annotated[Options, Flat] = Options(),
    json: str | None = None,
    plot: str | None = None,
    cfg_options: CfgOptions = None,
) -> int:
    """Compare models, token merging presets, and other libraries with the same weights.

    All run in turn in one process; the table has medians and quartiles.

    Args:
        config: config file, or the name of a model, see segformer-plusplus models.
        configs: further ones.
        token_merging: presets, or files that hold some (see fidelity); with one config only.
        json: write everything that was measured.
        plot: draw it: bars, or lines over the shapes.
    """
    if plot:
        check_plot_path(plot)
    for path in filter(None, (json, plot)):
        check_writable(path)
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # init_weights lists parameters
    arguments = dict(
        configs=[config, *configs], token_merging=token_merging, cfg_options=cfg_options,
        **asdict(conditions), **asdict(options),
    )  # fmt: skip
    variants = read_variants([config, *configs], token_merging, cfg_options)
    comparison = Comparison(variants, options)
    named = [cfg.pretrained_model.name for cfg in variants.values() if 'pretrained_model' in cfg]
    others = ['random ones'] if len(named) < len(variants) else []
    own_weights = ', '.join(dict.fromkeys(named + others)) if named else None
    console = Console()
    runs: list[dict[str, Any]] = []
    try:
        for setting in conditions.settings():
            runs.append({})
            comparison.run(setting, runs[-1])
            print_run(console, runs[-1], options, own_weights)
    except KeyboardInterrupt:
        console.print('interrupted', highlight=False)
        return INTERRUPTED
    finally:
        if json and runs:
            write_results(json, arguments, runs)
    for line in break_even_lines(runs, list(variants) if token_merging else []):
        console.print(line, highlight=False)
    if plot:
        draw_benchmark(plot, runs, f'{options.dtype} on {options.device}')
    return 0


def read_variants(
    configs: Sequence[str], presets: Sequence[str] | None, cfg_options: Mapping[str, Any] | None
) -> dict[str, Config]:
    """Returns what to compare: each config, or the one config under each preset."""
    if presets and len(configs) > 1:
        raise SegformerPlusPlusError('--token-merging works with one config, not several')
    if not presets:
        named = [(Path(path).stem, load_config(path, cfg_options)) for path in configs]
    else:
        named = []
        for name, strategy in chain.from_iterable(read_preset(each).items() for each in presets):
            named.append((name, load_config(configs[0], cfg_options)))
            backbone_settings(named[-1][1]).update(token_merging=strategy, tome_cfg=None)
    variants = dict(named)
    for name, count in Counter(name for name, _ in named).items():
        if count > 1:
            raise SegformerPlusPlusError(f'{name!r} is given twice')
    return variants


def print_run(
    console: Console, run: dict[str, Any], options: Options, own_weights: str | None
) -> None:
    """Prints the checks and the tables of one run."""
    for line in check_lines(run):
        console.print(line, highlight=False)
    checkpoint = options.checkpoint or own_weights
    weights = f'weights from {checkpoint}' if checkpoint else f'random weights (seed {SEED})'
    what, beside = 'backbone' if options.backbone_only else 'inference', 'weights and input'
    if options.training:
        what, beside = 'training step', 'weights and optimizer state'
    title = f'{what}, {run_title(run, options.dtype, options.device)}'
    console.print(result_table(run, title).to_rich())
    console.print(
        f'{weights}; {options.rounds} rounds in turn; a multiply-add is 2 FLOP; MiB: '
        f'peak memory on top of {beside}',
        highlight=False,
    )
    if options.stages:
        console.print(stage_table(run).to_rich())


def write_results(path: str, arguments: Mapping[str, Any], runs: list[dict[str, Any]]) -> None:
    """Writes the JSON file; of a single run, the results stand at the top as well."""
    content: dict[str, Any] = dict(
        arguments=arguments,
        allocator={name: os.environ[name] for name in ALLOCATOR if name in os.environ},
        environment=describe_environment(),
        runs=runs,
    )
    if len(runs) == 1:
        content['results'] = runs[0].get('results', [])
    write_json(path, content)
