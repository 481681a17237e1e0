"""Makes inference fast on a GPU: a residual and the norm after it are one kernel.

The norm may be that of the next block, so that this is for blocks in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels import residual
from ..kernels.runtime import runs_on
from ..token_merging import MergePlan
from ..token_merging.plans import SlotPlan
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


def add_norm(
    tokens: Tensor, update: Tensor, norm: nn.Module, plan: MergePlan | None = None
) -> tuple[Tensor, Tensor]:
    """Computes ``tokens + update`` and its norm, both (B, N, C).

    A norm that is no plain layer norm is called.

    Args:
        tokens: (B, N, C).
        update: (B, N, C), or (B, M, C) of merged tokens.
        norm: of tokens.
        plan: unmerges the update.
    """
    # read in its place, an update need not be unmerged
    index = None
    if isinstance(plan, SlotPlan) and plan.fits(tokens) and update.shape[1] == plan.num_merged:
        index = plan.index
    if plan is not None and index is None:
        update = plan.unmerge(update)
    if (
        isinstance(norm, nn.LayerNorm)
        and is_layer_norm(norm)
        and runs_on(tokens, update, norm.weight, norm.bias)
        and (index is not None or tokens.shape == update.shape)
        and tokens.shape[2:] == norm.normalized_shape
        and tokens.shape[2] <= residual.WIDEST
    ):
        return residual.add_norm(tokens, update, index, norm.weight, norm.bias, norm.eps)
    total = tokens + (update if index is None or plan is None else plan.unmerge(update))
    return total, norm(total)
