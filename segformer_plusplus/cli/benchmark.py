"""Runs segformer-plusplus benchmark: measures time, memory and arithmetic of models."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from ..evaluation.benchmark.files import check_images, is_file
from ..evaluation.benchmark.report import (
    break_even_lines,
    check_lines,
    notes,
    result_table,
    run_title,
    stage_table,
)
from ..evaluation.plots import check_plot_path, draw_benchmark
from ..evaluation.presets import read_preset
from ..evaluation.timing import describe_environment
from ..export.formats import is_exported
from ..files import check_writable, write_json
from ..inference.configs import backbone_settings, load_config
from ..inference.exported import ExportedFile
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
        shape: height and width of the images (default: those of the first file, or 1024x1024).
        batch_size: images of one call (default: those of the first file, or 1).
        threads: of PyTorch, and of the runtimes (default: those of torch).
    """

    shape: Shapes | None = None
    batch_size: Positives | None = None
    threads: Positives | None = None

    def __post_init__(self) -> None:
        most = max(self.threads or [1])
        if most > _MOST_THREADS:  # beyond what libraries can start, they fail without words
            raise SegformerPlusPlusError(f'--threads {most}: give at most {_MOST_THREADS}')

    def settings(self, files: Mapping[str, Config]) -> list[Setting]:
        """Returns every combination.

        Raises:
            SegformerPlusPlusError: a file does not take it.
        """
        graph: Any = next((each.model.backbone for each in files.values()), {})
        settings = [
            Setting(shape, batch_size, threads)
            for threads in self.threads or [torch.get_num_threads()]
            for batch_size in self.batch_size or [graph.get('batch_size') or 1]
            for shape in self.shape or [tuple(graph.get('shape') or (1024, 1024))]
        ]
        for each in settings:
            check_images(files, each.shape, each.batch_size)
        return settings


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
    """Compare models, token merging presets, exported files, and other libraries.

    All run in turn in one process; the table has medians and quartiles. Models have the same
    weights. A file has its own, and is timed in every installed runtime that runs it; where a
    model has its strategy and weights of a checkpoint, too, their labels are compared.

    Args:
        config: config file, the name of a model, see segformer-plusplus models, or an exported
            file.
        configs: further ones.
        token_merging: presets, or files that hold some (see fidelity), or exported ones; with one
            config only.
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
    settings = conditions.settings({k: each for k, each in variants.items() if is_file(each)})
    comparison = Comparison(variants, options)
    named = [cfg.pretrained_model.name for cfg in variants.values() if 'pretrained_model' in cfg]
    others = ['random ones'] if len(named) < len(variants) else []
    own_weights = ', '.join(dict.fromkeys(named + others)) if named else None
    console = Console()
    runs: list[dict[str, Any]] = []
    try:
        for setting in settings:
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
    """Returns what to compare: each config, or the one config under each preset, and each file.

    The options are for the configs; for files, if there is nothing else.
    """
    models = [each for each in configs if not is_exported(each)]
    if presets and len(models) != 1:
        raise SegformerPlusPlusError(
            '--token-merging works with one config, not several, nor with files alone, which have '
            'their strategies'
        )
    named: list[tuple[str, Config]] = []
    for path in configs:
        if is_exported(path):
            named.append(_read_file(path, None if models else cfg_options))
        elif presets:
            named += _read_presets(path, presets, cfg_options)
        else:
            named.append((Path(path).stem, load_config(path, cfg_options)))
    variants = dict(named)
    for name, count in Counter(name for name, _ in named).items():
        if count > 1:
            raise SegformerPlusPlusError(f'{name!r} is given twice')
    return variants


def _read_file(path: str, cfg_options: Mapping[str, Any] | None) -> tuple[str, Config]:
    return Path(path).name, load_config(path, cfg_options)


def _read_presets(
    config: str, presets: Sequence[str], cfg_options: Mapping[str, Any] | None
) -> Iterator[tuple[str, Config]]:
    for name, strategy in chain.from_iterable(read_preset(each).items() for each in presets):
        if isinstance(strategy, ExportedFile):
            yield _read_file(strategy.path, None)
            continue
        cfg = load_config(config, cfg_options)
        backbone_settings(cfg).update(token_merging=strategy, tome_cfg=None)
        yield name, cfg


def print_run(
    console: Console, run: dict[str, Any], options: Options, own_weights: str | None
) -> None:
    """Prints the checks and the tables of one run."""
    for line in check_lines(run):
        console.print(line, highlight=False)
    checkpoint = options.checkpoint or own_weights
    weights = f'weights from {checkpoint}' if checkpoint else f'random weights (seed {SEED})'
    what = 'backbone' if options.backbone_only else 'inference'
    if options.training:
        what = 'training step'
    title = f'{what}, {run_title(run, options.dtype, options.device)}'
    console.print(result_table(run, title).to_rich())
    console.print(
        f'{weights}; {options.rounds} rounds in turn; {notes(run, options.training)}',
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
