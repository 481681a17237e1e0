"""Times exported models beside PyTorch: export.py CONFIG --json FILE --markdown FILE.

Every preset eagerly, through torch.compile, and as one ONNX file in ONNX Runtime and OpenVINO, from
the normalised image to the label map; random weights, equal everywhere; rounds in turn in one
process.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from rich.console import Console
from torch import Tensor

from segformer_plusplus.cli.guard import main_guard
from segformer_plusplus.cli.options import add_config_arguments, parse_shape
from segformer_plusplus.evaluation.benchmark.contenders import OpenMMLabModel
from segformer_plusplus.evaluation.benchmark.costs import compile_contender
from segformer_plusplus.evaluation.timing import Timing, describe_environment, measure
from segformer_plusplus.export import FORMATS, export_model
from segformer_plusplus.files import write_json, write_text
from segformer_plusplus.inference.configs import load_config
from segformer_plusplus.inference.opening import open_model

EAGER, COMPILED = 'PyTorch', 'torch.compile'
EXPORTED = {'onnxruntime': 'ONNX Runtime', 'openvino': 'OpenVINO'}
WAYS = (EAGER, COMPILED, *EXPORTED.values())

Calls = dict[tuple[str, str], Callable[[], Any]]


def build_parser() -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Time every preset in PyTorch, ONNX Runtime and OpenVINO on the CPU.'
    )
    parser.add_argument('config', help='config file of a segmentor')
    parser.add_argument('--token-merging', nargs='+', default=['none', 'hq', 'fast', '2x2'])
    parser.add_argument(
        '--shape', nargs='+', type=parse_shape, default=[(512, 512), (1024, 1024)], metavar='HxW'
    )
    parser.add_argument(
        '--compile', nargs='*', metavar='NAME', help='presets to compile (default: all)'
    )
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--warmup', type=int, default=2)
    parser.add_argument('--json', required=True, metavar='FILE')
    parser.add_argument('--markdown', required=True, metavar='FILE')
    add_config_arguments(parser)
    return parser


def build_calls(
    model: Any, preset: str, images: Tensor, folder: Path, compiles: bool
) -> tuple[Calls, Any]:
    """What is timed of one preset, and what the exported file was checked for."""
    model.backbone.set_token_merging(preset)
    eager = OpenMMLabModel(model)
    shape = images.shape[2], images.shape[3]
    exported = export_model(
        model, folder / f'{preset}_{shape[0]}x{shape[1]}.onnx', shape=shape, output='labels'
    )
    calls: Calls = {(preset, EAGER): torch.inference_mode()(lambda: eager.predict(images))}
    if compiles:
        compiled, _ = compile_contender(eager, images, 'inductor', False, preset)
        calls[preset, COMPILED] = torch.inference_mode()(lambda: compiled.predict(images))
    for runtime, run in FORMATS['onnx'].runners(exported.path).items():
        calls[preset, EXPORTED[runtime]] = lambda run=run: run(images)  # type: ignore[misc]
    return calls, [vars(check) for check in exported.checks]


def run_shape(cfg: Any, shape: tuple[int, int], args: Any) -> dict[str, Any]:
    """Everything at one size."""
    torch.manual_seed(0)
    torch._dynamo.reset()  # what was compiled for another shape would ask for dynamic ones
    images = torch.randn(1, 3, *shape)
    calls: Calls = {}
    checks = {}
    with tempfile.TemporaryDirectory() as folder:
        for preset in args.token_merging:
            model = open_model(cfg, random_weights=True, device='cpu')
            compiles = args.compile is None or preset in args.compile
            more, checks[preset] = build_calls(model, preset, images, Path(folder), compiles)
            calls |= more
        names = {' '.join(key): key for key in calls}
        timings = measure(
            {name: calls[key] for name, key in names.items()}, args.rounds, args.warmup
        )
    return {
        'shape': shape,
        'checks': checks,
        'results': [record(names[name], timing) for name, timing in timings.items()],
    }


def record(key: tuple[str, str], timing: Timing) -> dict[str, Any]:
    """One cell of the table."""
    return {
        'token_merging': key[0],
        'way': key[1],
        'median_seconds': timing.median,
        'quartiles_seconds': timing.quartiles,
        'seconds': timing.seconds,
    }


def markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """A table of medians in milliseconds, and of the speed-up over the same way without merging."""
    lines = ['| | ' + ' | '.join(WAYS) + ' |', '| --- |' + ' ---: |' * len(WAYS)]
    for run in runs:
        medians = {
            (each['token_merging'], each['way']): each['median_seconds'] for each in run['results']
        }
        for preset in dict.fromkeys(preset for preset, _ in medians):
            cells = []
            for way in WAYS:
                seconds, base = medians.get((preset, way)), medians.get(('none', way))
                if seconds is None:
                    cells.append('-')
                    continue
                gain = f' ({base / seconds:.2f})' if base and preset != 'none' else ''
                cells.append(f'{1e3 * seconds:.0f}{gain}')
            lines.append(f'| {"x".join(map(str, run["shape"]))}, {preset} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns its exit code."""
    args = build_parser().parse_args(argv)
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    torch.set_num_threads(args.threads)
    cfg = load_config(args.config, args.cfg_options)
    cfg.model.test_cfg = dict(mode='whole')  # one graph takes the whole image
    runs: list[dict[str, Any]] = []
    for shape in args.shape:
        runs.append(run_shape(cfg, shape, args))
        # after every shape, so that an interruption loses one only
        content = dict(arguments=vars(args), environment=describe_environment(), runs=runs)
        write_json(args.json, content)
        write_text(args.markdown, markdown(runs))
    Console().print(markdown(runs), highlight=False)
    return 0


if __name__ == '__main__':
    sys.exit(main())
