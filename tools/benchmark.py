"""Compares models or token merging presets: parameters, FLOPs, latency and peak memory.

python tools/benchmark.py CONFIG... [--token-merging NAME...] [--shape 1024x1024] [--json FILE]
"""

import argparse
import copy
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before torch is imported: its profiler, which counts memory, otherwise reports to stderr.
os.environ.setdefault('KINETO_LOG_LEVEL', '99')

import segformer_plusplus  # noqa: F401  (registers everything; must precede mmseg and mmpose)

# isort: split
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from segformer_plusplus.engine.benchmarking import (
    Timing,
    describe_environment,
    measure,
    memory_errors,
    peak_memory,
)
from segformer_plusplus.engine.cli import add_config_arguments, load_config, write_json
from segformer_plusplus.engine.complexity import count_flops, count_parameters
from segformer_plusplus.engine.guard import main_guard
from segformer_plusplus.engine.models import (
    SEED,
    build_model,
    check_same_logits,
    make_call,
    mmseg_peer,
    share_weights,
    stage_calls,
)
from segformer_plusplus.errors import SegformerPlusPlusError

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
ALLOCATOR = ('MALLOC_TOP_PAD_', 'MALLOC_MMAP_MAX_', 'MALLOC_MMAP_THRESHOLD_', 'LD_PRELOAD')
"""Settings of the C library that decide how dear large temporary tensors are on a CPU."""

PEERS = ('mmseg',)


def parse_shape(text: str) -> tuple[int, int]:
    """'1024x2048' -> (1024, 2048): height, width."""
    height, _, width = text.partition('x')
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise argparse.ArgumentTypeError(f'{text!r} is no shape; write HEIGHTxWIDTH, as 512x1024')
    return int(height), int(width)


def parse_positive(text: str) -> int:
    """A whole number above 0."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number above 0')
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(description='Compare models, or token merging presets.')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files')
    parser.add_argument(
        '--token-merging', nargs='+', metavar='NAME', help='presets; with one config only'
    )
    parser.add_argument('--checkpoint', metavar='FILE', help='weights (default: random)')
    parser.add_argument('--shape', type=parse_shape, default=(1024, 1024), metavar='HxW')
    parser.add_argument('--batch-size', type=parse_positive, default=1)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--dtype', choices=list(DTYPES), default='float32')
    parser.add_argument('--rounds', type=parse_positive, default=10)
    parser.add_argument('--warmup', type=int, default=2)
    parser.add_argument('--threads', type=parse_positive, help="CPU threads (default: torch's)")
    parser.add_argument('--backbone-only', action='store_true')
    parser.add_argument(
        '--against',
        nargs='+',
        choices=PEERS,
        default=[],
        help="the same weights in other people's modules, checked for the same logits first",
    )
    parser.add_argument(
        '--stages', action='store_true', help='time backbone, head and labels by themselves, too'
    )
    parser.add_argument('--json', metavar='FILE', help='write everything that was measured')
    add_config_arguments(parser)
    return parser


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


def build_models(
    variants: dict[str, Config], args: argparse.Namespace, inputs: Tensor
) -> tuple[dict[str, nn.Module], dict[str, float]]:
    """All models with the same weights, peers first, and by how much the peers' logits differ."""
    settings: dict[str, Any] = dict(device=args.device, dtype=DTYPES[args.dtype])

    def build(cfg: Any, scope: str) -> nn.Module:
        return build_model(cfg, scope, args.checkpoint, **settings)

    models: dict[str, nn.Module] = {}
    errors: dict[str, float] = {}
    first = next(iter(variants.values()))
    if 'mmseg' in args.against:
        models['mmseg'] = build(mmseg_peer(first.model), 'mmseg')
        unmerged = copy.deepcopy(first.model)
        unmerged.backbone.update(token_merging='none', tome_cfg=None)
        ours = build(unmerged, 'mmseg')
        share_weights({'mmseg': models['mmseg'], 'none': ours})
        tolerance = 1e-4 if args.dtype == 'float32' else 5e-2
        errors['mmseg'] = check_same_logits(ours, models['mmseg'], inputs, tolerance)
    for name, cfg in variants.items():
        models[name] = build(cfg.model, cfg.get('default_scope', 'mmengine'))
    share_weights(models)
    return models, errors


def measure_stages(
    models: dict[str, nn.Module], inputs: Tensor, args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Median seconds of every stage of every model, all in turn."""
    calls = {
        (name, stage): call
        for name, model in models.items()
        for stage, call in stage_calls(model, inputs).items()
    }
    timings = measure(
        {' '.join(key): call for key, call in calls.items()}, args.rounds, args.warmup, args.device
    )
    stages: dict[str, dict[str, float]] = {name: {} for name in models}
    for (name, stage), timing in zip(calls, timings.values(), strict=True):
        stages[name][stage] = timing.median
    return stages


def summarise(
    models: dict[str, nn.Module],
    calls: dict[str, Callable[[], Any]],
    timings: dict[str, Timing],
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """One record a model; speed-ups are against the first, a peer if there is one."""
    first = next(iter(timings.values())).median
    records = []
    for name, timing in timings.items():
        part = models[name].get_submodule('backbone' if args.backbone_only else '')
        with memory_errors(name):
            records.append(
                dict(
                    name=name,
                    parameters=count_parameters(part),
                    gflops=count_flops(calls[name]) / 1e9,
                    median_seconds=timing.median,
                    quartiles_seconds=timing.quartiles,
                    images_per_second=args.batch_size / timing.median,
                    speed_up=first / timing.median,
                    peak_memory_bytes=peak_memory(calls[name], args.device),
                    seconds=timing.seconds,
                )
            )
    return records


def make_table(records: list[dict[str, Any]], args: argparse.Namespace) -> Table:
    """The records, for people."""
    weights = (
        f'weights from {args.checkpoint}' if args.checkpoint else f'random weights (seed {SEED})'
    )
    height, width = args.shape
    what = 'backbone' if args.backbone_only else 'whole model'
    table = Table(
        title=f'{what}, {args.batch_size} x 3 x {height} x {width}, {args.dtype} on {args.device}',
        caption=f'{weights}; median of {args.rounds} rounds in turn; a multiply-add is 2 FLOPs; '
        'peak memory on top of weights and input',
    )
    table.add_column('model', overflow='fold')
    stages = list(records[0].get('stages', {}))
    for column in ('params (M)', 'GFLOPs', 'ms', 'images/s', 'peak (MiB)', 'speed-up', *stages):
        table.add_column(column, justify='right')
    for record in records:
        table.add_row(
            record['name'],
            f'{record["parameters"] / 1e6:.2f}',
            f'{record["gflops"]:.1f}',
            f'{record["median_seconds"] * 1e3:.1f}',
            f'{record["images_per_second"]:.2f}',
            f'{record["peak_memory_bytes"] / 2**20:.0f}',
            f'{record["speed_up"]:.2f}',
            *(f'{1e3 * seconds:.1f}' for seconds in record.get('stages', {}).values()),
        )
    return table


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns its exit code."""
    args = build_parser().parse_args(argv)
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise SegformerPlusPlusError('--device cuda: PyTorch finds no CUDA device here')
    # init_weights lists every parameter
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    variants = read_variants(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    inputs = torch.randn(args.batch_size, 3, *args.shape)
    inputs = inputs.to(device=args.device, dtype=DTYPES[args.dtype])
    models, errors = build_models(variants, args, inputs)
    calls = {name: make_call(m, inputs, args.backbone_only) for name, m in models.items()}
    timings = measure(calls, args.rounds, args.warmup, args.device)
    records = summarise(models, calls, timings, args)
    if args.stages:
        for name, stages in measure_stages(models, inputs, args).items():
            next(record for record in records if record['name'] == name)['stages'] = stages
    Console().print(make_table(records, args))
    if args.json:
        write_json(
            args.json,
            dict(
                arguments=vars(args),
                threads=torch.get_num_threads(),
                allocator={name: os.environ[name] for name in ALLOCATOR if name in os.environ},
                relative_error_of_logits=errors,
                environment=describe_environment(),
                results=records,
            ),
        )
    return 0


if __name__ == '__main__':
    sys.exit(main())
