"""Makes inference fast on a GPU: a residual and the norm after it are one kernel.

The norm may be that of the next block, so that this is for blocks in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels import residual
from ..kernels.runtime import runs_on
from .plain import is_layer_norm, is_untouched


def works_in_a_row(tokens: Tensor, blocks: nn.ModuleList) -> bool:
    """Tells whether this is inference where kernels run, and no block has to be called whole."""
    return (
        not torch.is_grad_enabled()
        and len(blocks) > 0
        and runs_on(tokens)
        and is_untouched(*blocks)
        and all(block._compiled_call_impl is None for block in blocks)
    )


def add_norm(tokens: Tensor, update: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Computes ``tokens + update`` and its norm, both (B, N, C).

    A norm that is no plain layer norm is called.

    Args:
        tokens: (B, N, C).
        update: (B, N, C).
        norm: of tokens.
    """
    if (
        isinstance(norm, nn.LayerNorm)
        and is_layer_norm(norm)
        and runs_on(tokens, update, norm.weight, norm.bias)
        and tokens.shape == update.shape
        and tokens.shape[2:] == norm.normalized_shape
        and tokens.shape[2] <= residual.WIDEST
    ):
        return residual.add_norm(tokens, update, None, norm.weight, norm.bias, norm.eps)
    total = tokens + update
    return total, norm(total)
