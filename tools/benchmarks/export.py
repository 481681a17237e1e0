"""Times exported models beside PyTorch: export.py CONFIG --json FILE --markdown FILE.

Every preset eagerly, through torch.compile, and as one ONNX file in ONNX Runtime and OpenVINO, from
the normalised image to the label map; random weights, equal everywhere; rounds in turn in one
process.
"""

import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from mmengine.logging import MMLogger
from rich.console import Console
from torch import Tensor

from segformer_plusplus.cli.options import CfgOptions, Flat, Positive, Shapes, command
from segformer_plusplus.evaluation.benchmark.contenders import OpenMMLabModel
from segformer_plusplus.evaluation.benchmark.costs import compile_contender
from segformer_plusplus.evaluation.timing import Timing, describe_environment, measure
from segformer_plusplus.export import FORMATS, export_model
from segformer_plusplus.files import write_json, write_text
from segformer_plusplus.inference.configs import load_config
from segformer_plusplus.inference.opening import open_model

EAGER, COMPILED = 'PyTorch', 'torch.compile'
EXPORTED = {'onnxruntime': 'ONNX Runtime', 'openvino': 'OpenVINO'}
ANY_SIZE = ', any size'
WAYS = (EAGER, COMPILED, *EXPORTED.values(), *(way + ANY_SIZE for way in EXPORTED.values()))

Calls = dict[tuple[str, str], Callable[[], Any]]


@dataclass(frozen=True)
class Options:
    """What is timed.

    Attributes:
        token_merging: presets.
        compile: presets to compile (default: all).
        threads: of PyTorch and of the runtimes.
        rounds: timed ones.
        warmup: rounds before those.
        dynamic_size: time files for every size, too.
    """

    token_merging: Sequence[str] = ('none', 'hq', 'fast', '2x2')
    compile: Sequence[str] | None = None
    threads: Positive = 2
    rounds: Positive = 7
    warmup: int = 2
    dynamic_size: bool = False


def build_calls(
    model: Any, preset: str, images: Tensor, folder: Path, options: Options
) -> tuple[Calls, Any]:
    """What is timed of one preset, and what the exported files were checked for."""
    model.backbone.set_token_merging(preset)
    eager = OpenMMLabModel(model)
    shape = images.shape[2], images.shape[3]
    calls: Calls = {(preset, EAGER): torch.inference_mode()(lambda: eager.predict(images))}
    checks = []
    if options.compile is None or preset in options.compile:
        compiled, _ = compile_contender(eager, images, 'inductor', False, preset)
        calls[preset, COMPILED] = torch.inference_mode()(lambda: compiled.predict(images))
    for ending in ('', ANY_SIZE)[: 1 + options.dynamic_size]:
        path = folder / f'{preset}_{shape[0]}x{shape[1]}{ending}.onnx'
        exported = export_model(
            model, path, shape=shape, output='labels', dynamic_size=ending == ANY_SIZE
        )
        checks += [vars(check) for check in exported.checks]
        for runtime, run in FORMATS['onnx'].runners(path).items():
            calls[preset, EXPORTED[runtime] + ending] = lambda run=run: run(images)  # type: ignore[misc]
    return calls, checks


def run_shape(cfg: Any, shape: tuple[int, int], options: Options) -> dict[str, Any]:
    """Everything at one size."""
    torch.manual_seed(0)
    torch._dynamo.reset()  # what was compiled for another shape would ask for dynamic ones
    images = torch.randn(1, 3, *shape)
    calls: Calls = {}
    checks = {}
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.token_merging:
            model = open_model(cfg, random_weights=True, device='cpu')
            more, checks[preset] = build_calls(model, preset, images, Path(folder), options)
            calls |= more
        names = {' '.join(key): key for key in calls}
        timings = measure(
            {name: calls[key] for name, key in names.items()}, options.rounds, options.warmup
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


def make_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """A table of medians in milliseconds, and of the speed-up over the same way without merging."""
    found = {each['way'] for run in runs for each in run['results']}
    ways = [way for way in WAYS if way in found]
    lines = ['| | ' + ' | '.join(ways) + ' |', '| --- |' + ' ---: |' * len(ways)]
    for run in runs:
        medians = {
            (each['token_merging'], each['way']): each['median_seconds'] for each in run['results']
        }
        for preset in dict.fromkeys(preset for preset, _ in medians):
            cells = []
            for way in ways:
                seconds, base = medians.get((preset, way)), medians.get(('none', way))
                if seconds is None:
                    cells.append('-')
                    continue
                gain = f' ({base / seconds:.2f})' if base and preset != 'none' else ''
                cells.append(f'{1e3 * seconds:.0f}{gain}')
            lines.append(f'| {"x".join(map(str, run["shape"]))}, {preset} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


@command
def main(
    config: str,
    /,
    *,
    json: str,
    markdown: str,
    shape: Shapes = ((512, 512), (1024, 1024)),  # type: ignore[assignment]
    options: Annotated[Options, Flat] = Options(),
    cfg_options: CfgOptions = None,
) -> None:
    """Time every preset in PyTorch, ONNX Runtime and OpenVINO on the CPU.

    Args:
        config: config file of a segmentor.
        json: file for everything that was measured.
        markdown: file for the table.
        shape: height and width of the images.
    """
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    cfg = load_config(config, cfg_options)
    cfg.model.test_cfg = dict(mode='whole')  # one graph takes the whole image
    arguments = dict(config=config, shape=shape, cfg_options=cfg_options, **asdict(options))
    runs: list[dict[str, Any]] = []
    for each in shape:
        runs.append(run_shape(cfg, each, options))
        # after every shape, so that an interruption loses one only
        content = dict(arguments=arguments, environment=describe_environment(), runs=runs)
        write_json(json, content)
        write_text(markdown, make_table(runs))
    Console().print(make_table(runs), highlight=False)


if __name__ == '__main__':
    sys.exit(main(prog='python tools/benchmarks/export.py'))
