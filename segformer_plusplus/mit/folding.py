"""Folds norms and layers into weights, and keeps what was folded until a weight changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..kernels.runtime import hold

T = TypeVar('T')
Projection = tuple[Tensor, Tensor | None]
"""Is weight (C', C) and bias (C') of a linear layer."""

# no attribute of a module, which would be copied, saved and moved with it
_kept: WeakKeyDictionary[nn.Module, tuple[list[tuple[Tensor, int] | None], Any, Any]] = (
    WeakKeyDictionary()
)


class Folded(NamedTuple):
    """Holds the weights with which a pyramid is fused.

    Attributes:
        levels: for each, what it is multiplied by before its activation.
        parts: for each, what it is multiplied by after that, (C, C); None where it has none.
        bias: (C) of the sum, or None.
    """

    levels: list[Projection]
    parts: list[Tensor | None]
    bias: Tensor | None


def fold_pyramid(levels: Sequence[Any], fusion_conv: Any) -> Folded:
    """Folds the norms of 1x1 ``ConvModule``s, and what is linear, into weights.

    Kept from one inference to the next, see ``keep``.

    Args:
        levels: one per level, to C channels.
        fusion_conv: of len(levels) * C channels.
    """
    modules = *levels, fusion_conv
    sources = [tensor for module in modules for tensor in _sources(module)]
    settings = [(m.with_activation, getattr(m.norm, 'eps', None)) for m in modules]

    def make() -> Folded:
        weight, bias = _fold(fusion_conv)
        folded = [_fold(level) for level in levels]
        parts: list[Tensor | None] = [
            each if each.is_cuda else each.contiguous()  # or a CPU copies them for every chunk
            for each in weight.chunk(len(levels), dim=1)
        ]
        for i, level in enumerate(levels):
            if not level.with_activation:
                folded[i], parts[i] = compose(folded[i], parts[i]), None
        return Folded(folded, parts, bias)

    return keep(fusion_conv, sources, settings, make)


def _fold(module: Any) -> Projection:
    """Returns weight (C', C) and bias (C') of the convolution and its norm in one."""
    weight, bias, norm = module.conv.weight.flatten(1), module.conv.bias, module.norm
    if norm is None:
        return weight, bias
    scale = torch.rsqrt(norm.running_var + norm.eps)
    shift = -norm.running_mean if bias is None else bias - norm.running_mean
    if norm.affine:
        scale = scale * norm.weight
    shift = shift * scale if not norm.affine else shift * scale + norm.bias
    # a norm may be in float32 beside layers in half precision
    return (weight * scale[:, None]).to(weight.dtype), shift.to(weight.dtype)


def _sources(module: Any) -> list[Tensor | None]:
    """Returns what ``_fold`` reads."""
    conv, norm = module.conv, module.norm
    if norm is None:
        return [conv.weight, conv.bias]
    return [
        conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var,
    ]  # fmt: skip


def compose(first: Projection, second: Any) -> Projection:
    """Joins a linear layer (C', C), (C') and another one (C'', C') without a bias."""
    weight, bias = first
    return second @ weight, None if bias is None else second @ bias


def keep(
    owner: nn.Module, sources: Sequence[Tensor | None], settings: object, make: Callable[[], T]
) -> T:
    """Returns ``make()``, or in inference what it returned for the same numbers before.

    Other numbers are noticed by the memory they lie in and by the version that PyTorch's operators
    count. What writes past both, such as ``parameter.data.copy_``, calls for ``forget``.

    Args:
        owner: what is kept lives as long as this module, one result for each.
        sources: the tensors that the result is made of.
        settings: what else it is made of, to compare.
        make: computes it.
    """
    tensors = [each for each in sources if each is not None]
    if not _may_keep(tensors):
        return make()
    if tensors[0].is_cuda:
        # on another stream, what this one computes might not be there yet
        settings = settings, torch.cuda.current_stream(tensors[0].device)
    kept = _kept.get(owner)
    if kept is not None and kept[1] == settings and _are_same(kept[0], sources):
        return hold(kept[2], lambda: (_kept.get(owner) or (None,) * 3)[2] is kept[2])
    if tensors[0].is_cuda and torch.cuda.is_current_stream_capturing():
        return make()  # in every replay
    # these hold the memory, so that no other numbers come to lie there
    seen = [None if each is None else (each.detach(), each._version) for each in sources]
    made = make()
    _kept[owner] = seen, settings, made
    return made


def forget(owner: nn.Module) -> None:
    """Drops what is kept for this module."""
    if not torch.compiler.is_compiling():
        _kept.pop(owner, None)


def _may_keep(tensors: Sequence[Tensor]) -> bool:
    """Tells whether this is inference on real tensors of one device, which nothing records."""
    if (
        torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or torch.jit.is_tracing()
        or _get_current_dispatch_mode() is not None
        or peek_interpreter_stack() is not None
        # those of inference mode have no version
        or any(type(t) not in (Tensor, nn.Parameter) or t.is_inference() for t in tensors)
        or len({t.device for t in tensors}) > 1
    ):
        return False
    return tensors[0].device.type in ('cpu', 'cuda')


def _are_same(seen: list[tuple[Tensor, int] | None], sources: Sequence[Tensor | None]) -> bool:
    return len(seen) == len(sources) and all(
        old is None and new is None
        if old is None or new is None
        else old[1] == new._version and old[0].dtype == new.dtype and old[0].is_set_to(new)
        for old, new in zip(seen, sources, strict=True)
    )
