"""What a machine reaches in plain matrix products: the measure for what a model reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .benchmarking import memory_errors, synchronize

REPEATS = 5


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
