"""Times what apply_token_merging gains on each library's model, image to logits on a CPU.

python tools/benchmarks/patching.py --json patching.json
"""

import copy
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from mmengine.registry import MODELS
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from segformer_plusplus.cli.options import Positive, Positives, command
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.evaluation.results import spread
from segformer_plusplus.evaluation.timing import describe_environment, measure
from segformer_plusplus.files import write_json
from segformer_plusplus.libraries import require
from segformer_plusplus.patching import apply_token_merging

CLOCKS = {'wall': time.perf_counter, 'cpu': time.process_time}
UNTOUCHED = 'untouched'
STRATEGIES = ('none', 'hq', 'fast', '2x2')
CLASSES = 19
_WIDTHS = [32, 64, 160, 256]


def build_mmseg() -> nn.Module:
    """mmseg's own backbone and head of MiT-B0."""
    require('mmseg.models', 'this benchmark')
    backbone = dict(
        type='mmseg.MixVisionTransformer',
        embed_dims=32,
        num_heads=[1, 2, 5, 8],
        num_layers=[2, 2, 2, 2],
    )
    head = dict(
        type='mmseg.SegformerHead',
        in_channels=_WIDTHS,
        in_index=[0, 1, 2, 3],
        channels=256,
        num_classes=CLASSES,
        norm_cfg=dict(type='BN'),
        align_corners=False,
    )
    return MODELS.build(dict(type='mmseg.EncoderDecoder', backbone=backbone, decode_head=head))


def build_transformers() -> nn.Module:
    """``SegformerForSemanticSegmentation`` of MiT-B0."""
    library = require('transformers', 'this benchmark')
    return library.SegformerForSemanticSegmentation(library.SegformerConfig(num_labels=CLASSES))


def build_smp() -> nn.Module:
    """``Segformer`` of segmentation_models.pytorch with MiT-B0."""
    library = require('segmentation_models_pytorch', 'this benchmark')
    return library.Segformer('mit_b0', encoder_weights=None, classes=CLASSES)


LIBRARIES: dict[str, Callable[[], nn.Module]] = {
    'mmseg': build_mmseg,
    'transformers': build_transformers,
    'smp': build_smp,
}


def time_model(
    model: nn.Module, image: Tensor, rounds: int, warmup: int, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    """One record for the model as it is and one for each strategy."""
    models = {UNTOUCHED: model}
    for strategy in STRATEGIES:
        models[strategy] = copy.deepcopy(model)
        apply_token_merging(models[strategy], strategy)
    calls = {
        name: torch.inference_mode()(lambda each=each: each(image)) for name, each in models.items()
    }
    timings = measure(calls, rounds, warmup, clock=clock)
    return [
        dict(
            name=name,
            median_seconds=timing.median,
            quartiles_seconds=timing.quartiles,
            speed_up=timings[UNTOUCHED].median / timing.median,
            seconds=timing.seconds,
        )
        for name, timing in timings.items()
    ]


def make_table(runs: Sequence[dict[str, Any]], threads: int, clock: str) -> Table:
    """One row a library and size."""
    table = Table(
        title=f'MiT-B0, image to logits, batch 1, float32, threads: {threads}, time: {clock}',
        caption='ms (quartiles), speed-up against the model as it is',
    )
    for column in ('library', 'size', UNTOUCHED, *STRATEGIES):
        table.add_column(column)
    for run in runs:
        cells = [
            f'{spread(each["median_seconds"], each["quartiles_seconds"])}\n{each["speed_up"]:.2f}'
            for each in run['results']
        ]
        table.add_row(run['library'], 'x'.join(map(str, run['shape'])), *cells)
    return table


@command
def main(
    *,
    libraries: list[Literal['mmseg', 'transformers', 'smp']] | None = None,
    sizes: Positives = (512, 1024),  # type: ignore[assignment]
    threads: Positive = 2,
    rounds: Positive = 7,
    warmup: int = 1,
    clock: Literal['wall', 'cpu'] = 'wall',
    json: str | None = None,
) -> None:
    """Time MiT-B0 of several libraries as it is and after apply_token_merging, in turn.

    float32, batch 1, image to logits, on the CPU.

    Args:
        libraries: whose models (default: all).
        sizes: height and width of the images.
        threads: of PyTorch.
        rounds: timed ones.
        warmup: rounds before those.
        clock: cpu counts the time of this process on the CPU, for a machine that others use, too;
            with --threads 1, since threads that wait for each other count.
        json: write everything that was measured.
    """
    if min(sizes) < 32:
        raise SegformerPlusPlusError('--sizes must be at least 32')
    torch.set_num_threads(threads)
    runs = []
    for library in libraries or LIBRARIES:
        torch.manual_seed(0)
        model = LIBRARIES[library]().eval()
        for size in sizes:
            image = torch.randn(1, 3, size, size)
            results = time_model(model, image, rounds, warmup, CLOCKS[clock])
            runs.append(dict(library=library, shape=[size, size], results=results))
    Console().print(make_table(runs, threads, clock))
    if json:
        conditions = dict(model='MiT-B0', batch_size=1, threads=threads, dtype='float32')
        content = dict(runs=runs, **conditions, rounds=rounds, warmup=warmup)
        content['clock'] = clock
        write_json(json, dict(content, environment=describe_environment()))


if __name__ == '__main__':
    sys.exit(main(prog='python tools/benchmarks/patching.py'))
