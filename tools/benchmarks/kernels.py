"""Checks the kernels of a GPU at real shapes, and times them beside what they replace.

python tools/benchmarks/kernels.py --json gpu_kernels.json

Shapes are those of MiT-B5 and one image of 1024x2048. Errors are those of kernel and of PyTorch in
the same dtype against float64. On a CPU, small examples run instead, whose times mean nothing.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves, tree_map

from segformer_plusplus.cli.options import On, Positive, command
from segformer_plusplus.evaluation.timing import describe_environment, gpu_clocks, synchronize
from segformer_plusplus.files import write_json
from segformer_plusplus.inference.configs import backbone_settings, load_config
from segformer_plusplus.inference.opening import open_model
from segformer_plusplus.kernels.attention import attention
from segformer_plusplus.kernels.depthwise import depthwise_gelu
from segformer_plusplus.kernels.fusion import fused_logits
from segformer_plusplus.kernels.labels import resized_argmax
from segformer_plusplus.kernels.matching import matched_index
from segformer_plusplus.kernels.merging import group_means
from segformer_plusplus.kernels.residual import add_norm
from segformer_plusplus.kernels.runtime import OPERATORS, Operator, is_capable
from segformer_plusplus.kernels.weighing import merge_weighed
from segformer_plusplus.token_merging.bipartite import _split_grid

B5 = 'segformer_plusplus::cityscapes/segformer_mit-b5_none_1xb4-160k_cityscapes-1024x1024.py'
WIDTHS = 64, 128, 320, 512
GRIDS = (256, 512), (128, 256), (64, 128), (32, 64)
REDUCED = 32, 64
KEYS = 2048
DTYPES = torch.bfloat16, torch.float32

Arguments = tuple[Any, ...]


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Operator, Arguments]]:
    """Yields the name, the operator and its arguments at the shapes of a model."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(dtype)

    for stage, (width, grid) in enumerate(zip(WIDTHS, GRIDS, strict=True), start=1):
        hidden = draw(1, *grid, 4 * width)
        weight, bias = draw(4 * width, 1, 3, 3), draw(4 * width)
        yield f'depthwise_gelu, stage {stage}', depthwise_gelu, (hidden, weight, bias)
    for stage, (width, grid) in enumerate(zip(WIDTHS, GRIDS, strict=True), start=1):
        tokens, update = draw(1, grid[0] * grid[1], width), draw(1, grid[0] * grid[1], width)
        norm = draw(width), draw(width)
        yield f'add_norm, stage {stage}', add_norm, (tokens, update, None, *norm, 1e-6)
    matchings = [
        ('keys of stage 1, hq', REDUCED, 64, (2, 2), 0.6),
        ('keys of stage 1, fast', REDUCED, 64, (4, 4), 0.9),
        ('keys of stage 3, weighted', REDUCED, 320, (3, 3), 0.8),
        ('queries of stage 3, hq', GRIDS[2], 320, (4, 4), 0.8),
        ('queries of stage 4, hq', GRIDS[3], 512, (4, 4), 0.8),
    ]
    for name, grid, width, cell, ratio in matchings:
        tokens = draw(1, grid[0] * grid[1], width)
        sources, destinations = _split_grid(grid, cell, device)
        kept = len(sources) - int(ratio * tokens.shape[1])
        matched = tokens, sources, destinations, kept
        yield f'matched_index, {name}', matched_index, matched
        index, sizes = matched_index(*matched)
        yield f'group_means, {name}', group_means, (tokens, index, sizes)
    for stage, (width, heads) in enumerate(zip(WIDTHS, (1, 2, 5, 8), strict=True), start=1):
        sources, destinations = _split_grid(REDUCED, (3, 3), device)
        kept = len(sources) - int(0.8 * KEYS)
        index, sizes = matched_index(draw(1, KEYS, width), sources, destinations, kept)
        query, key, value = draw(1, 32, width), draw(1, KEYS, width), draw(1, KEYS, width)
        weighed = query, key, value, index, sizes, heads
        yield f'merge_weighed, stage {stage}', merge_weighed, weighed
        if dtype != torch.float32:
            merged_key, merged_value, bias = merge_weighed(*weighed)
            query = draw(1, GRIDS[stage - 1][0] * GRIDS[stage - 1][1], width)
            attended = query, merged_key, merged_value, bias, heads
            yield f'attention, stage {stage}', attention, attended
    levels = [draw(1, *grid, 768) for grid in GRIDS]
    project = draw(768), draw(19, 768), draw(19)
    yield 'fused_logits', fused_logits, (levels, *project, True)
    logits = draw(1, 256, 512, 19).permute(0, 3, 1, 2)
    yield 'resized_argmax', resized_argmax, (logits, 1024, 2048)


def alternatives(operator: Operator, arguments: Arguments) -> dict[str, Callable[[], Any]]:
    """Returns other ways to compute the same, by name."""
    if operator is not attention:
        return {}
    query, key, value, bias, heads = arguments
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key, value))
    mask = bias.to(q.dtype)[:, :, None]
    scale = q.shape[-1] ** -0.5
    # two more channels hold the bias, high and low part; eight, as kernels want their alignment
    high = (bias / scale).to(q.dtype)
    low = (bias / scale - high).to(q.dtype)
    ones = q.new_ones(*q.shape[:-1], 2)
    wide_q = F.pad(torch.cat([q, ones], -1), (0, 6))
    wide_k = F.pad(
        torch.cat([k, torch.stack([high, low], -1).expand(*k.shape[:-1], 2)], -1), (0, 6)
    )
    wide_v = F.pad(v, (0, 8))

    def widened() -> Tensor:
        return F.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=scale)

    def of_cudnn() -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    ways: dict[str, Callable[[], Any]] = {
        'flash without the bias': lambda: F.scaled_dot_product_attention(q, k, v),
        'flash, the bias in more channels': widened,
        'cuDNN': of_cudnn,
    }
    try:
        from torch.nn.attention.flex_attention import flex_attention

        compiled = torch.compile(flex_attention)

        def with_bias(score: Tensor, b: Tensor, h: Tensor, _: Tensor, m: Tensor) -> Tensor:
            return score + bias[b, h, m]

        ways['FlexAttention'] = lambda: compiled(q, k, v, score_mod=with_bias)
    except ImportError:
        pass
    return ways


def milliseconds(call: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """Returns the median time of a call, of CUDA events where there are some."""
    for _ in range(3):
        call()
    times = []
    for _ in range(rounds):
        synchronize(device)
        if device.type == 'cuda':
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            synchronize(device)
            times.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def wide(value: Any) -> Any:
    """Returns tensors of floats in float64."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def error(found: Any, expected: Any) -> float:
    """Returns the largest relative error of the results, or the share of other whole numbers."""
    errors = []
    for one, other in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        if other.is_floating_point():
            difference = (one.double() - other.double()).norm() / other.double().norm()
            errors.append(float(difference))
        else:
            errors.append(float((one != other).double().mean()))
    return max(errors)


def try_kernel(
    name: str, operator: Operator, arguments: Arguments, device: torch.device, rounds: int
) -> dict[str, Any]:
    """Returns errors and times of a kernel, of PyTorch's operators, and of other ways."""
    run = operator.launch if device.type == 'cuda' else operator.reference
    exact = operator.reference(*tree_map(wide, arguments))
    record: dict[str, Any] = dict(
        name=name,
        error_of_pytorch=error(operator.reference(*arguments), exact),
        milliseconds_of_pytorch=milliseconds(
            lambda: operator.reference(*arguments), device, rounds
        ),
    )
    try:
        record |= dict(
            error=error(run(*arguments), exact),
            agrees=operator.agrees(run(*arguments), operator.reference(*arguments)),
            milliseconds=milliseconds(lambda: run(*arguments), device, rounds),
        )
    except Exception as reason:  # noqa: BLE001 - whatever Triton says
        record['failed'] = f'{type(reason).__name__}: {reason}'[:500]
    others: dict[str, float | str] = {}
    for other, call in alternatives(operator, arguments).items():
        try:
            others[other] = milliseconds(call, device, rounds)
        except Exception as reason:  # noqa: BLE001 - what a library does not have for this GPU
            others[other] = f'{type(reason).__name__}: {reason}'[:200]
    return record | dict(others=others)


def cells(row: dict[str, Any]) -> list[str]:
    """Returns the row of the table."""
    others = [f'{k} {v:.3f}' for k, v in row['others'].items() if isinstance(v, float)]
    theirs = row['milliseconds_of_pytorch']
    if 'failed' in row:
        return [
            row['name'],
            row['dtype'],
            'failed',
            f'{theirs:.3f}',
            '',
            '',
            '',
            row['failed'][:60],
        ]
    return [
        row['name'], row['dtype'], f'{row["milliseconds"]:.3f}', f'{theirs:.3f}',
        f'{theirs / row["milliseconds"]:.2f}', f'{row["error"]:.1e}',
        f'{row["error_of_pytorch"]:.1e}', ', '.join(others),
    ]  # fmt: skip


def machine(device: torch.device) -> dict[str, Any]:
    """Measures what everything else is to be compared with: copies, products, launches."""
    elements = 2**28 if device.type == 'cuda' else 2**20
    block = torch.empty(elements, dtype=torch.bfloat16, device=device)
    other = torch.empty_like(block)
    copied = milliseconds(lambda: other.copy_(block), device, 20)
    size = 8192 if device.type == 'cuda' else 256
    rates = {}
    for dtype in DTYPES:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        taken = milliseconds(partial(torch.matmul, left, right), device, 10)
        rates[str(dtype)] = 2 * size**3 / taken / 1e9
    small = torch.zeros(1, device=device)

    def many() -> None:
        for _ in range(1000):
            small.add_(1)

    many()
    synchronize(device)
    begin = time.perf_counter()
    many()
    synchronize(device)
    launch = 1e3 * (time.perf_counter() - begin)
    return dict(
        copy_gb_per_second=4 * elements / copied / 1e6,
        products_tflops=rates,
        microseconds_per_launch=launch,
        clocks=gpu_clocks(),
    )


def profiled(preset: str, device: torch.device) -> list[dict[str, Any]]:
    """Returns the 25 kernels of B5 that take most of the time, bfloat16, 1024x2048."""
    config = load_config(B5, {'model.test_cfg.mode': 'whole'})
    backbone_settings(config).update(token_merging=preset)
    model = open_model(config, random_weights=True, device=str(device), dtype=torch.bfloat16)
    image = torch.randn(1, 3, 1024, 2048, device=device).bfloat16()
    with torch.inference_mode():
        model.predict_labels(image)
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(3):
                model.predict_labels(image)
            synchronize(device)
    rows = profiler.key_averages()
    rows = sorted(rows, key=lambda row: -row.self_device_time_total)[:25]
    return [
        dict(name=row.key[:120], calls=row.count / 3, milliseconds=row.self_device_time_total / 3e3)
        for row in rows
    ]


@command
def main(
    *,
    device: Literal['cuda', 'cpu'] = 'cuda',
    rounds: Positive = 20,
    profiles: On = True,
    json: str | None = None,
) -> None:
    """Check the kernels of a GPU at real shapes, and time them beside what they replace.

    Args:
        device: on a CPU it shows that this works, on small examples.
        rounds: timed ones.
        profiles: also profile B5 without merging, under hq and weighted.
        json: write everything that was measured.
    """
    place = torch.device(device)
    record: dict[str, Any] = dict(environment=describe_environment(), machine=machine(place))
    table = Table('kernel', 'dtype', 'ms', 'PyTorch ms', 'speed-up', 'error', "PyTorch's", 'others')
    rows: list[dict[str, Any]] = []
    record['kernels'] = rows
    with torch.inference_mode():
        for dtype in DTYPES:
            found = cases(place, dtype) if device == 'cuda' else examples(place, dtype)
            for name, operator, arguments in found:
                row = try_kernel(name, operator, arguments, place, rounds)
                rows.append(dict(row, dtype=str(dtype).removeprefix('torch.')))
                table.add_row(*cells(rows[-1]))
                if json:  # an interruption loses nothing
                    write_json(json, record)
    Console(width=160).print(record['machine'], table)
    if profiles and device == 'cuda' and is_capable(place):
        record['profiles'] = {
            preset: profiled(preset, place) for preset in ('none', 'hq', 'weighted')
        }
        if json:
            write_json(json, record)


def examples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Operator, Arguments]]:
    """Yields every operator with what it is tried on."""
    for name, operator in OPERATORS.items():
        yield name, operator, operator.example(device, dtype)


if __name__ == '__main__':
    sys.exit(main(prog='python tools/benchmarks/kernels.py'))
