"""Makes inference fast on a CPU: chunked layers, matrix products through oneDNN.

A chunked layer works on a few rows of the grid at a time, which fit into the cache, so that no
large temporary tensor has to be asked from the system; ``chunked`` turns this off. In training,
where all activations are kept, only the products differ.

PyTorch sends ``F.linear`` and its fused attention in float32 to MKL, whose products use the widest
vectors on some makers' processors only; oneDNN asks the processor what it can do. Its product has
no gradient in PyTorch: training takes 1x1 convolutions on channels-last memory, which are the same
products and go to oneDNN where there are two threads. Where MKL is as fast, nothing is lost. Equal
to rounding.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..kernels.runtime import Switch

SCORES = 3 * 2**19
"""Limits the attention weights that are worked on at a time."""

SMALLEST = 20480
"""Is the largest number of input elements that PyTorch multiplies as fast without oneDNN."""

SMALLEST_TRAINED = 32 * 32
"""Up to so many weights, a layer that is trained stays ``F.linear``, whose backward is faster."""

Projection = tuple[Tensor, Tensor | None]
"""Is weight (C', C) and bias (C') of a linear layer."""


_chunked = Switch()


def chunked(enabled: bool) -> ExitStack:
    """Turns chunked inference on or off; in a ``with`` statement, until its end.

    With it off, models call PyTorch's own attention and fold no norms, for comparison or for a
    graph. The results are equal to rounding. The switch holds for all models and all threads of the
    process.
    """
    return _chunked.set(enabled)


def is_chunked() -> bool:
    """Returns what ``chunked`` was last set to, by default True."""
    return _chunked.on


def accept_in_rows(in_rows: bool | None) -> None:
    """Sets the switch as the argument ``in_rows`` of an old config says; None says nothing."""
    if in_rows is not None:
        name = f'{__name__}.chunked({in_rows})'
        warnings.warn(f'in_rows={in_rows} is {name} now, for all models', FutureWarning, 3)
        chunked(in_rows)


def works_chunked(tensor: Tensor) -> bool:
    """Tells whether this is inference on a CPU in eager mode: no graph may hold a loop."""
    return _chunked.on and is_eager(tensor) and not torch.is_grad_enabled()


def is_eager(tensor: Tensor) -> bool:
    """Tells whether this runs on a CPU as written, neither traced nor under autocast."""
    return (
        not torch.compiler.is_compiling()
        and tensor.device.type == 'cpu'
        and not torch.is_autocast_enabled('cpu')
        and not torch.jit.is_tracing()
    )


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes ``F.linear``: (..., C), (C', C), (C') -> (..., C')."""
    trained = torch.is_grad_enabled()
    if not _suits_onednn(tokens) or (trained and weight.numel() <= SMALLEST_TRAINED):
        return F.linear(tokens, weight, bias)
    if not trained and _get_current_dispatch_mode() is None:  # counters of FLOPs do not know it
        # of other strides weights are multiplied a hundred times slower, and biases wrongly
        weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
        return torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, 'none', [], '')
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
    """Attends to the keys and values of one image, laid out as weights of linear layers.

    With one head, the projections before and after the attention are folded into them: then
    scores are x (K W_q)^T + K b_q, and the output is P (V W_o^T) + b_o.

    Args:
        key: (M, C).
        value: (M, C).
        num_heads: divides C.
        query_projection: weight (C, C) and bias (C) or None of the layer that makes queries.
        out_projection: those of the layer that follows.
        bias: (heads or 1, M), added to the scores of each key.
    """

    def __init__(
        self,
        key: Tensor,
        value: Tensor,
        num_heads: int,
        query_projection: Projection,
        out_projection: Projection,
        bias: Tensor | None = None,
    ) -> None:
        self.num_heads = num_heads
        self._before, self._after = query_projection, out_projection
        self._key_bias = None if bias is None else bias.expand(num_heads, -1)
        key = key * (key.shape[1] // num_heads) ** -0.5
        if num_heads == 1:
            weight, offset = query_projection
            if offset is not None:
                self._key_bias = (key @ offset)[None] + (0 if bias is None else bias)
            key = key @ weight
            value = value @ out_projection[0].t()
        self.keys = key.unflatten(1, (num_heads, -1)).transpose(0, 1).contiguous()
        self.values = value.unflatten(1, (num_heads, -1)).permute(1, 2, 0).contiguous()

    @property
    def num_queries(self) -> int:
        """Returns how many queries ``attend`` should get at a time."""
        _, num_keys, head_dims = self.keys.shape
        return max(SCORES // max(num_keys, head_dims), SMALLEST // head_dims + 1)

    def attend(self, tokens: Tensor) -> Tensor:
        """Attends from tokens (N, C), not yet projected, and projects the output (N, C)."""
        if self.num_heads == 1:
            return linear(self._weights(tokens, 0), self.values[0], self._after[1])
        query = linear(tokens, *self._before).chunk(self.num_heads, dim=1)
        heads = [
            linear(self._weights(part, head), self.values[head]) for head, part in enumerate(query)
        ]
        return linear(torch.cat(heads, dim=1), *self._after)

    def _weights(self, query: Tensor, head: int) -> Tensor:
        """Computes the attention weights of one head, (N, M)."""
        bias = None if self._key_bias is None else self._key_bias[head]
        weights = linear(query, self.keys[head], bias)
        return torch.softmax(weights, dim=-1, out=weights)
