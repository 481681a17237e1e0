"""Times kinds of layers beside OpenVINO's: layers.py CONFIG --json FILE --markdown FILE.

The model in PyTorch, and the same exported to ONNX in OpenVINO, from the normalised image to the
label map; random weights. With one thread all times are of the processor, which other programs do
not disturb; OpenVINO's profile, which has wall clocks only, then says how its time is shared out.
"""

import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from torch import Tensor

from segformer_plusplus.cli.options import CfgOptions, Flat, Positive, Shape, command
from segformer_plusplus.evaluation.benchmark.contenders import OpenMMLabModel
from segformer_plusplus.evaluation.timing import describe_environment
from segformer_plusplus.export import export_model
from segformer_plusplus.export.formats import openvino_core
from segformer_plusplus.files import write_json, write_text
from segformer_plusplus.inference.configs import load_config
from segformer_plusplus.inference.opening import open_model
from segformer_plusplus.mit.attention import MergedAttention
from segformer_plusplus.mit.backbone import OverlapPatchEmbed
from segformer_plusplus.mit.ffn import MixFFN
from segformer_plusplus.token_merging import MergePlan

PARTS: dict[str, list[tuple[Any, str]]] = {
    'patch embedding': [(OverlapPatchEmbed, 'forward')],
    'spatial reduction': [(MergedAttention, 'reduce')],
    'attention with its products': [(MergedAttention, 'attend')],
    'merging': [
        (MergedAttention, '_plan'),
        *((plan, name) for plan in MergePlan.__subclasses__() for name in ('merge', 'unmerge')),
    ],
    'Mix-FFN: products': [(MixFFN, 'add_chunked'), (MixFFN, 'run')],
    'Mix-FFN: convolution, GELU': [(MixFFN, '_convolve'), (MixFFN, '_activate')],
    'norms': [(F, 'layer_norm')],
    'head': [(OpenMMLabModel, 'head')],
    'labels': [(OpenMMLabModel, 'labels')],
    'residuals, layouts': [(OpenMMLabModel, 'predict')],
}
"""Says by whose calls PyTorch's time is told apart; what one calls of another kind is of that."""

PRECISIONS = {'f32': torch.float32, 'bf16': torch.bfloat16}
WAYS = 'PyTorch', 'OpenVINO'

Kinds = dict[str, float]
"""Holds seconds by the kind of layer."""


@dataclass(frozen=True)
class Options:
    """What is timed.

    Attributes:
        token_merging: presets.
        precision: f32, and bf16: weights in PyTorch, a hint in OpenVINO.
        threads: of both.
        rounds: timed ones, after one that is not.
    """

    token_merging: Sequence[str] = ('none', 'hq')
    precision: Sequence[str] = ('f32', 'bf16')
    threads: Positive = 1
    rounds: Positive = 7


@contextmanager
def stopwatch(clock: Callable[[], float]) -> Iterator[Kinds]:
    """Adds up seconds between the calls of ``PARTS``, each to the innermost one."""
    seconds: Any = Counter()
    within: list[str] = []
    last = clock()

    def pass_time() -> None:
        nonlocal last
        now = clock()
        if within:
            seconds[within[-1]] += now - last
        last = now

    def timed(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            pass_time()
            within.append(kind)
            try:
                return call(*args, **kwargs)
            finally:
                pass_time()
                within.pop()

        return run

    with ExitStack() as stack:
        for kind, calls in PARTS.items():
            for owner, name in calls:
                call = timed(kind, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, call))
        yield seconds


def profile_pytorch(model: OpenMMLabModel, images: Tensor, clock: Callable[[], float]) -> Kinds:
    """Seconds of one call by kind."""
    with stopwatch(clock) as seconds, torch.inference_mode():
        model.predict(images)
    return dict(seconds)


class OpenVinoProfile:
    """Runs an ONNX file in OpenVINO and tells its time apart."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        import onnx

        self.scopes = {node.name: scopes_of(node) for node in onnx.load(path).graph.node}
        settings = {
            'INFERENCE_PRECISION_HINT': precision,
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_NUM_THREADS': threads,
            'PERF_COUNT': True,
        }
        compiled = openvino_core().compile_model(path, 'CPU', settings)
        self.sources = {
            node.get_friendly_name(): self._sources(node)
            for node in compiled.get_runtime_model().get_ordered_ops()
        }
        self.request = compiled.create_infer_request()

    def run(self, images: Tensor, clock: Callable[[], float]) -> Kinds:
        """Seconds of one call by kind: the call's, shared out as its profile says."""
        start = clock()
        self.request.infer([images.numpy()])
        total = clock() - start
        shares: Any = Counter()
        for node in self.request.get_profiling_info():
            shares[self.kind_of(node)] += node.real_time.total_seconds()
        return {kind: total * share / shares.total() for kind, share in shares.items()}

    def kind_of(self, node: Any) -> str:
        """The kind of one node, by the modules and operators that it was made of."""
        scopes = self.sources.get(node.node_name, '')
        if node.node_type == 'MVN' or 'LayerNormalization' in scopes:
            return 'norms'
        if 'decode_head' in scopes:
            return 'head'
        if '.projection' in scopes:
            return 'patch embedding'
        if '.attn.sr' in scopes:
            return 'spatial reduction'
        if '.ffn' in scopes:
            single = node.node_type in ('GroupConvolution', 'Gelu')
            return 'Mix-FFN: convolution, GELU' if single else 'Mix-FFN: products'
        if '.attn' in scopes:
            attends = 'scaled_dot_product' in scopes or "'linear" in scopes
            return 'attention with its products' if attends else 'merging'
        labels = node.node_type == 'TopK' or "'argmax" in scopes or 'upsample' in scopes
        return 'labels' if labels else 'residuals, layouts'

    def _sources(self, node: Any) -> str:
        """Modules and operators of the ONNX nodes that one of OpenVINO's was made of."""
        told = node.get_rt_info()
        names = told['originalLayersNames'].astype(str) if 'originalLayersNames' in told else ''
        return ' '.join(self.scopes.get(name, '') for name in names.split(','))


def scopes_of(node: Any) -> str:
    """The operator of an ONNX node, and the modules that it was traced in."""
    told = {each.key: each.value for each in node.metadata_props}
    return f'{node.op_type} {told.get("pkg.torch.onnx.name_scopes", "")}'


def run_preset(
    cfg: Any, preset: str, shape: tuple[int, int], folder: Path, options: Options
) -> list[dict[str, Any]]:
    """One preset in every precision: for each kind the median of its seconds, by way."""
    clock = time.process_time if options.threads == 1 else time.perf_counter
    images = torch.randn(1, 3, *shape)
    model = open_model(cfg, random_weights=True, device='cpu')
    model.backbone.set_token_merging(preset)
    path = folder / f'{preset}.onnx'
    export_model(model, path, shape=shape, output='labels')
    runs = []
    for precision in options.precision:
        eager = OpenMMLabModel(model.to(PRECISIONS[precision]))
        exported = OpenVinoProfile(path, precision, options.threads)
        typed = images.to(PRECISIONS[precision])
        rounds = [
            (profile_pytorch(eager, typed, clock), exported.run(images, clock))
            for _ in range(options.rounds + 1)
        ][1:]
        kinds = {
            kind: [median(each[way].get(kind, 0.0) for each in rounds) for way in range(len(WAYS))]
            for kind in PARTS
        }
        runs.append(dict(token_merging=preset, precision=precision, shape=shape, kinds=kinds))
    return runs


def make_table(runs: Sequence[dict[str, Any]]) -> str:
    """Milliseconds of every kind, ours and OpenVINO's."""
    names = [f'{run["token_merging"]}, {run["precision"]}' for run in runs]
    lines = ['| | ' + ' | '.join(names) + ' |', '| --- |' + ' ---: |' * len(names)]
    for kind in PARTS:
        cells = ' | '.join(pair(run['kinds'][kind]) for run in runs)
        lines.append(f'| {kind} | {cells} |')
    totals = [[sum(way) for way in zip(*run['kinds'].values(), strict=True)] for run in runs]
    lines.append('| all | ' + ' | '.join(pair(each) for each in totals) + ' |')
    return '\n'.join(lines) + '\n'


def pair(seconds: Sequence[float]) -> str:
    """One cell, of both ways."""
    return ' / '.join(f'{1e3 * each:.0f}' for each in seconds)


@command
def main(
    config: str,
    /,
    *,
    json: str,
    markdown: str,
    shape: Shape = (1024, 1024),
    options: Annotated[Options, Flat] = Options(),
    cfg_options: CfgOptions = None,
) -> None:
    """Time kinds of layers in PyTorch and OpenVINO on the CPU.

    Args:
        config: config file of a segmentor.
        json: file for everything that was measured.
        markdown: file for the table.
        shape: height and width of the image.
    """
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    cfg = load_config(config, cfg_options)
    cfg.model.test_cfg = dict(mode='whole')
    arguments = dict(config=config, shape=shape, cfg_options=cfg_options, **asdict(options))
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.token_merging:
            runs += run_preset(cfg, preset, shape, Path(folder), options)
    write_json(json, dict(arguments=arguments, environment=describe_environment(), runs=runs))
    write_text(markdown, make_table(runs))


if __name__ == '__main__':
    sys.exit(main(prog='python tools/benchmarks/layers.py'))
