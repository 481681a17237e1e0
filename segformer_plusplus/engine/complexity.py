"""How large a model is, and how much arithmetic one call of it takes."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count


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
