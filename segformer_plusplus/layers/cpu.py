"""What is particular to a CPU: work on a few rows at a time, matrix products through oneDNN.

In inference, what is worked on at a time fits into the cache, and no large temporary tensors have
to be asked from the system. In training, where all activations are kept, only the products differ.

PyTorch sends ``F.linear`` and its fused attention in float32 to MKL, whose products use the widest
vectors on some makers' processors only; 1x1 convolutions on channels-last memory are the same
products and go to oneDNN, which asks the processor what it can do. Where MKL is as fast, nothing is
lost. Equal to rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SCORES = 2**20
"""Attention weights that are worked on at a time."""

SMALLEST = 20480
"""PyTorch computes convolutions of no more input elements than these without oneDNN."""

SMALLEST_TRAINED = 32 * 32
"""The backward pass of convolutions with no more weights than these is slower than a product's."""


def works_in_rows(tensor: Tensor) -> bool:
    """Whether this is inference on a CPU in eager mode: no graph should hold a loop over rows."""
    return is_eager(tensor) and not torch.is_grad_enabled()


def is_eager(tensor: Tensor) -> bool:
    """Whether this runs on a CPU as written: neither traced nor in automatic mixed precision."""
    return (
        not torch.compiler.is_compiling()
        and tensor.device.type == 'cpu'
        and not torch.is_autocast_enabled('cpu')
        and not torch.jit.is_tracing()
    )


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``: (..., C), (C', C), (C') -> (..., C')."""
    small = weight.numel() <= SMALLEST_TRAINED and torch.is_grad_enabled()
    if small or not _suits_onednn(tokens):
        return F.linear(tokens, weight, bias)
    image = tokens.reshape(1, 1, -1, tokens.shape[-1]).permute(0, 3, 1, 2)
    result = F.conv2d(image, weight[:, :, None, None], bias).permute(0, 2, 3, 1)
    return result.reshape(*tokens.shape[:-1], len(weight))


def _suits_onednn(tokens: Tensor) -> bool:
    return (
        is_eager(tokens)
        and tokens.dtype == torch.float32
        and tokens.numel() > SMALLEST
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


class KeyValue:
    """Keys and values of one image, laid out as the weights of two products.

    Args:
        key: (M, C).
        value: (M, C).
        num_heads: divides C.
    """

    def __init__(self, key: Tensor, value: Tensor, num_heads: int) -> None:
        self.num_heads = num_heads
        scaled = key * (key.shape[1] // num_heads) ** -0.5
        self.keys = scaled.unflatten(1, (num_heads, -1)).transpose(0, 1).contiguous()
        self.values = value.unflatten(1, (num_heads, -1)).permute(1, 2, 0).contiguous()

    @property
    def num_queries(self) -> int:
        """How many queries :meth:`attend` should get at a time."""
        _, num_keys, head_dims = self.keys.shape
        return max(SCORES // max(num_keys, head_dims), SMALLEST // head_dims + 1)

    def attend(self, query: Tensor) -> Tensor:
        """Softmax attention of every head: (N, C) -> (N, C)."""
        heads = query.chunk(self.num_heads, dim=1)
        parts = []
        for head, keys, values in zip(heads, self.keys, self.values, strict=True):
            weights = linear(head, keys)
            torch.softmax(weights, dim=-1, out=weights)
            parts.append(linear(weights, values))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
