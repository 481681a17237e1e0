"""Compares models or token merging presets: parameters, FLOPs, latency and peak memory.

python tools/benchmark.py CONFIG... [--token-merging NAME...] [--shape 1024x1024] [--json FILE]
"""

import argparse
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
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from segformer_plusplus.checkpoints import load_checkpoint_strictly
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
from segformer_plusplus.errors import SegformerPlusPlusError

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
SEED = 0


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


def without_init_cfg(config: Any) -> Any:
    """The config without its ``init_cfg`` entries: a benchmark downloads nothing."""
    if isinstance(config, dict):
        return {k: without_init_cfg(v) for k, v in config.items() if k != 'init_cfg'}
    if isinstance(config, list | tuple):
        return [without_init_cfg(item) for item in config]
    return config


def build_model(cfg: Config, args: argparse.Namespace) -> nn.Module:
    """The model in eval mode, with the checkpoint's weights or seeded random ones."""
    scope = cfg.get('default_scope', 'mmengine')
    init_default_scope(scope)
    torch.manual_seed(SEED)
    settings = without_init_cfg(cfg.model.to_dict())
    model = revert_sync_batchnorm(MODELS.build(dict(settings, _scope_=scope)))
    if args.checkpoint:
        load_checkpoint_strictly(model, args.checkpoint)
    else:
        model.init_weights()
    return model.to(device=args.device, dtype=DTYPES[args.dtype]).eval()


def share_weights(models: dict[str, nn.Module]) -> None:
    """Gives all models that have the same parameters those of the first."""
    first, *others = models.values()
    state = first.state_dict()
    shapes = {key: value.shape for key, value in state.items()}
    for model in others:
        if {key: value.shape for key, value in model.state_dict().items()} == shapes:
            model.load_state_dict(state, strict=True)


def make_call(model: Any, inputs: Tensor, backbone_only: bool) -> Callable[[], Any]:
    """What is timed.

    A segmentor: from the normalised images to the label map, by ``predict_labels`` or as mmseg
    does: ``encode_decode``, which resizes the logits to the size of the images, and the argmax
    over the classes. Any other model: its ``mode='tensor'``, from the normalised images to the
    head's output.
    """
    shape = tuple(inputs.shape[-2:])
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, padding_size=[0, 0, 0, 0])
    metas = [meta] * len(inputs)

    @torch.inference_mode()
    def call() -> Any:
        if backbone_only:
            return model.backbone(inputs)
        if getattr(model, 'labels_only', False):
            return model.predict_labels(inputs)
        if hasattr(model, 'encode_decode'):
            return model.encode_decode(inputs, metas).argmax(dim=1)
        return model(inputs, None, mode='tensor')

    return call


def summarise(
    models: dict[str, nn.Module],
    calls: dict[str, Callable[[], Any]],
    timings: dict[str, Timing],
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """One record a model; speed-ups are against the first."""
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
    for column in ('params (M)', 'GFLOPs', 'ms', 'images/s', 'peak (MiB)', 'speed-up'):
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
    models = {name: build_model(cfg, args) for name, cfg in variants.items()}
    share_weights(models)
    torch.manual_seed(SEED)
    inputs = torch.randn(args.batch_size, 3, *args.shape)
    inputs = inputs.to(device=args.device, dtype=DTYPES[args.dtype])
    calls = {name: make_call(m, inputs, args.backbone_only) for name, m in models.items()}
    timings = measure(calls, args.rounds, args.warmup, args.device)
    records = summarise(models, calls, timings, args)
    Console().print(make_table(records, args))
    if args.json:
        write_json(
            args.json,
            dict(
                arguments=vars(args),
                threads=torch.get_num_threads(),
                environment=describe_environment(),
                results=records,
            ),
        )
    return 0


if __name__ == '__main__':
    sys.exit(main())
