"""Tells which modules do what their class and their weights say, so that weights may be read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as every

_PLAIN = (
    'torch.nn.modules.linear.Linear',
    'torch.nn.modules.linear.NonDynamicallyQuantizableLinear',
    'torch.nn.modules.conv.Conv2d',
    'torch.nn.modules.activation.MultiheadAttention',
    'mmcv.cnn.bricks.wrappers.Conv2d',  # by name: whoever has no mmcv has none of these
)
_WEIGHTS = {'weight', 'in_proj_weight'}
_GELUS = (
    'torch.nn.modules.activation.GELU',
    'mmcv.cnn.bricks.activation.GELU',
    'transformers.activations.GELUActivation',
)
# a subclass, such as a quantised one, does its own arithmetic; those of a traced graph are fake
_BARE = nn.Parameter, Tensor, type(None), torch._subclasses.FakeTensor


def class_name(module: nn.Module) -> str:
    """Returns module and name of a class; stand-ins that ``torch.export`` traces have the same."""
    return f'{type(module).__module__}.{type(module).__qualname__}'


def is_plain(*layers: nn.Module) -> bool:
    """Says whether the layers compute what their weights say, and nothing watches them.

    Not so an adapter (LoRA), a quantised, offloaded or parametrised layer, or one with hooks: it
    has to be called.
    """
    return is_untouched(*layers) and all(
        class_name(layer) in _PLAIN
        and type(layer).forward.__module__ == type(layer).__module__
        and has_bare_weights(layer)
        for layer in layers
    )


def is_gelu(activation: nn.Module) -> bool:
    """Says whether this is the exact GELU, and no approximation of it."""
    return (
        class_name(activation) in _GELUS
        and getattr(activation, 'approximate', 'none') == 'none'
        and getattr(activation, 'act', F.gelu) is F.gelu  # of Transformers
    )


def is_layer_norm(norm: nn.Module) -> bool:
    """Says whether this norms the last dimension by its weight and its bias, and nothing more."""
    return (
        type(norm) is nn.LayerNorm
        and len(norm.normalized_shape) == 1
        and norm.bias is not None
        and is_untouched(norm)
        and has_bare_weights(norm)
    )


def has_bare_weights(layer: nn.Module) -> bool:
    """Says whether the weights are numbers and no more, not such as are quantised."""
    weights = layer._parameters
    return not _WEIGHTS.isdisjoint(weights) and all(type(w) in _BARE for w in weights.values())


def is_untouched(*modules: nn.Module) -> bool:
    """Says whether a call of each module is the forward of its class, and nothing watches it."""
    return not (
        every._global_forward_hooks
        or every._global_forward_pre_hooks
        or every._global_backward_hooks
        or every._global_backward_pre_hooks
    ) and all(
        'forward' not in module.__dict__  # not vars(), which older compilers cannot trace
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
        for module in modules
    )
