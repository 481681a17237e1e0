"""Compares models, token merging presets and other libraries: time, memory, arithmetic."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console

from ..errors import SegformerPlusPlusError
from ..evaluation.benchmark.comparison import Comparison
from ..evaluation.benchmark.peers import PEERS
from ..evaluation.benchmark.report import (
    break_even_lines,
    check_lines,
    result_table,
    run_title,
    stage_table,
)
from ..evaluation.benchmark.settings import DTYPES, Options, Setting
from ..evaluation.plots import check_plot_path, draw_benchmark
from ..evaluation.timing import describe_environment
from ..files import write_json
from ..inference.configs import load_config
from ..inference.opening import SEED
from .guard import interruptible, main_guard
from .options import add_config_arguments, parse_positive, parse_shape

ALLOCATOR = (
    'MALLOC_TOP_PAD_',
    'MALLOC_MMAP_MAX_',
    'MALLOC_MMAP_THRESHOLD_',
    'LD_PRELOAD',
    'PYTORCH_CUDA_ALLOC_CONF',
    'PYTORCH_ALLOC_CONF',
)
"""Settings of the allocators, which decide how dear large temporary tensors are."""

INTERRUPTED = 130


def parse_peers(text: str) -> list[str]:
    """'mmseg,transformers' -> both."""
    names = [name for name in text.split(',') if name]
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f'{name!r} is no peer; choose from {", ".join(PEERS)}')
    return names


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description='Compare models, token merging presets, and other libraries with the same '
        'weights: rounds in turn in one process, median and quartiles.',
    )
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files')
    parser.add_argument(
        '--token-merging', nargs='+', metavar='NAME', help='presets; with one config only'
    )
    parser.add_argument(
        '--against',
        nargs='+',
        type=parse_peers,
        default=[],
        metavar='PEER',
        help=f'the same weights in {", ".join(PEERS)}, checked for the same logits first',
    )
    parser.add_argument('--checkpoint', metavar='FILE', help='weights (default: random)')
    what = parser.add_argument_group('what is measured')
    what.add_argument(
        '--stages', action='store_true', help='also backbone, head and labels by themselves'
    )
    what.add_argument('--compile', action='store_true', help='also through torch.compile')
    what.add_argument('--compile-backend', default='inductor', help=argparse.SUPPRESS)
    what.add_argument(
        '--training',
        action='store_true',
        help='optimisation steps (forward, backward, AdamW) instead of inference',
    )
    what.add_argument('--backbone-only', action='store_true')
    what.add_argument(
        '--peak', action='store_true', help="also the machine's plain matrix products"
    )
    how = parser.add_argument_group('under which conditions (several values: every combination)')
    how.add_argument('--shape', nargs='+', type=parse_shape, default=[(1024, 1024)], metavar='HxW')
    how.add_argument('--batch-size', nargs='+', type=parse_positive, default=[1], metavar='N')
    how.add_argument(
        '--threads', nargs='+', type=parse_positive, metavar='N', help="(default: torch's)"
    )
    how.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    how.add_argument('--dtype', choices=list(DTYPES), default='float32')
    how.add_argument('--rounds', type=parse_positive, default=10)
    how.add_argument('--warmup', type=int, default=2)
    parser.add_argument('--json', metavar='FILE', help='write everything that was measured')
    parser.add_argument('--plot', metavar='FILE', help='draw it: bars, or lines over the shapes')
    add_config_arguments(parser)
    return parser


def read_options(args: argparse.Namespace) -> Options:
    """What the command line asks to measure."""
    peers = list(itertools.chain.from_iterable(args.against))
    same = [each.name for each in fields(Options) if each.name != 'against']
    return Options(
        against=tuple(dict.fromkeys(peers)), **{name: getattr(args, name) for name in same}
    )


def read_variants(args: argparse.Namespace) -> dict[str, Config]:
    """What to compare: each config, or the one config under each preset."""
    presets = args.token_merging
    if presets and len(args.configs) > 1:
        raise SegformerPlusPlusError('--token-merging works with one config, not several')
    variants = {}
    for preset in presets or [None]:
        for path in args.configs:
            cfg = load_config(path, args.cfg_options)
            if preset is not None:
                cfg.model.backbone.update(token_merging=preset, tome_cfg=None)
            name = preset or Path(path).stem
            if name in variants:
                raise SegformerPlusPlusError(f'{name!r} is given twice')
            variants[name] = cfg
    return variants


def read_settings(args: argparse.Namespace) -> list[Setting]:
    """Every combination of shape, batch size and threads."""
    threads = args.threads or [torch.get_num_threads()]
    combinations = itertools.product(threads, args.batch_size, args.shape)
    return [Setting(shape, batch, count) for count, batch, shape in combinations]


def print_run(console: Console, run: dict[str, Any], args: argparse.Namespace) -> None:
    """Checks and tables of one run."""
    for line in check_lines(run):
        console.print(line, highlight=False)
    weights = (
        f'weights from {args.checkpoint}' if args.checkpoint else f'random weights (seed {SEED})'
    )
    what = 'backbone' if args.backbone_only else 'inference'
    beside = 'weights and input'
    if args.training:
        what, beside = 'training step', 'weights and optimizer state'
    caption = (
        f'{weights}; {args.rounds} rounds in turn; a multiply-add is 2 FLOP; MiB: '
        f'peak memory on top of {beside}'
    )
    title = f'{what}, {run_title(run, args.dtype, args.device)}'
    console.print(result_table(run, title, caption))
    if args.stages:
        console.print(stage_table(run))


def write_results(args: argparse.Namespace, options: Options, runs: list[dict[str, Any]]) -> None:
    """The JSON file; of a single run, the results stand at the top as well."""
    content: dict[str, Any] = dict(
        arguments=dict(vars(args), against=options.against),
        allocator={name: os.environ[name] for name in ALLOCATOR if name in os.environ},
        environment=describe_environment(),
        runs=runs,
    )
    if len(runs) == 1:
        content['results'] = runs[0].get('results', [])
    write_json(args.json, content)


@main_guard
@interruptible()
def main(argv: Sequence[str], prog: str | None = None) -> int:
    """Runs the tool and returns its exit code."""
    args = build_parser(prog).parse_args(argv)
    if args.plot:
        check_plot_path(args.plot)
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise SegformerPlusPlusError('--device cuda: PyTorch finds no CUDA device here')
    # init_weights lists every parameter
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    options = read_options(args)
    settings = read_settings(args)
    comparison = Comparison(read_variants(args), options)
    console = Console()
    runs: list[dict[str, Any]] = []
    try:
        for setting in settings:
            runs.append({})
            comparison.run(setting, runs[-1])
            print_run(console, runs[-1], args)
    except KeyboardInterrupt:
        console.print('interrupted', highlight=False)
        return INTERRUPTED
    finally:
        if args.json and runs:
            write_results(args, options, runs)
    for line in break_even_lines(runs, args.token_merging or []):
        console.print(line, highlight=False)
    if args.plot:
        draw_benchmark(args.plot, runs, f'{options.dtype} on {options.device}')
    return 0
