"""What a model costs to compute, and what the machine could do."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from ...errors import memory_errors
from ..timing import synchronize

REPEATS = 5


def count_parameters(model: nn.Module) -> int:
    """Number of elements of all parameters; buffers such as running means do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(call: Callable[[], Any]) -> int:
    """Floating point operations of one call, as executed.

    Counts matrix products, convolutions and attention, and nothing else: no norms, activations,
    resizes, gathers or scatters. **One multiply-add counts as two operations.** Many papers,
    mmengine's and fvcore's counters among them, count it as one: halve this number to compare.
    Token merging is counted by what it does: shorter matrix products, and the product of its
    similarity matrix on top.

    Args:
        call: runs the model once. Run under ``torch.inference_mode()`` or not, the count is
            the same.
    """
    counter: Any = FlopCounterMode(display=False, custom_mapping=_missing_formulas())
    # Only the total is asked for. To tell modules apart it would put hooks on their inputs, which
    # fail inside of an autograd.Function.
    counter.mod_tracker = _OneModule()
    with counter:
        call()
    return counter.get_total_flops()


class _OneModule(contextlib.nullcontext):
    """Stands in for the tracker of modules: everything happens in the whole."""

    parents = ('Global',)

    def __exit__(self, *_: Any) -> None:
        """Called without arguments, too."""


def _missing_formulas() -> dict[Any, Callable[..., int]]:
    """A formula for the CPU's fused attention, which older PyTorch versions do not count."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return {} if fused in flop_registry else {fused: _attention_flops}


def _attention_flops(
    query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """Two products, query-key and weights-value; each argument is the shape of a tensor."""
    return sdpa_flop_count(query, key, value)


def matrix_product_rates(
    device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32
) -> dict[str, float]:
    """GFLOP/s of two ways to multiply matrices, the best of a few repeats each.

    They take different paths on a CPU: ``torch.mm`` goes to the BLAS that PyTorch was built with,
    a 1x1 convolution to oneDNN.

    Returns:
        'mm', of 2048 x 2048 by 2048 x 2048; 'conv1x1', of 1024 to 1024 channels on 64 x 64 in
        channels-last layout. A multiply-add is two operations.
    """
    left, right = (torch.randn(2048, 2048).to(device, dtype) for _ in range(2))
    image = torch.randn(1, 1024, 64, 64).to(memory_format=torch.channels_last).to(device, dtype)
    weight = torch.randn(1024, 1024, 1, 1).to(device, dtype)
    products: dict[str, tuple[float, Callable[[], Tensor]]] = {
        'mm': (2 * 2048**3, lambda: torch.mm(left, right)),
        'conv1x1': (2 * 1024 * 1024 * 64 * 64, lambda: F.conv2d(image, weight)),
    }
    rates = {}
    with torch.inference_mode(), memory_errors('--peak'):
        for name, (operations, product) in products.items():
            product()
            seconds = min(_seconds(product, device) for _ in range(REPEATS))
            rates[name] = operations / seconds / 1e9
    return rates


def _seconds(call: Callable[[], Tensor], device: torch.device | str) -> float:
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start
