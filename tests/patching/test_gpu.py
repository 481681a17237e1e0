"""The Mix-FFN of a patched model in a kernel, where it is taken and with the same numbers."""

import pytest
import torch
from checkpoints.models import difference
from torch import nn

from segformer_plusplus import apply_token_merging
from segformer_plusplus.kernels.depthwise import depthwise_gelu
from segformer_plusplus.mit import cpu, ffn as mix_ffn
from segformer_plusplus.patching import find_backbones
from segformer_plusplus.patching.plain import HostFFN

from .models import every_host


@pytest.fixture
def calls(monkeypatch):
    """Collects the inputs of the operator, which is its reference on a CPU."""
    found = []
    monkeypatch.setattr(mix_ffn, 'runs_on', lambda *tensors: True)
    monkeypatch.setattr(
        mix_ffn, 'depthwise_gelu', lambda *inputs: found.append(inputs) or depthwise_gelu(*inputs)
    )
    return found


def build(case):
    model = case.build().double()
    apply_token_merging(model, 'hq')
    backbone, *_ = find_backbones(model)
    layers = [module for module in model.modules() if isinstance(module, HostFFN)]
    assert len(layers) == sum(map(len, backbone.blocks))
    return model, layers


IMAGE = torch.randn(2, 3, 64, 96, dtype=torch.float64)


@every_host
@torch.no_grad()
def test_numbers_stay_the_same(case, calls):
    model, layers = build(case)
    expected = case.output(model, IMAGE)
    assert not calls  # chunked
    with cpu.chunked(False):
        found = case.output(model, IMAGE)
    assert len(calls) == len(layers)
    assert difference(found, expected) < 1e-9


@every_host
@pytest.mark.parametrize('part', ['activation', 'dropout', 'conv'])
@torch.no_grad()
def test_a_layer_that_is_watched_is_called(part, case, calls):
    model, layers = build(case)
    watched = getattr(layers[0].parts(), part)
    seen = []
    watched.register_forward_hook(lambda *_: seen.append(part))
    with cpu.chunked(False):
        case.output(model, IMAGE)
    assert seen
    assert len(calls) == len(layers) - sum(getattr(e.parts(), part) is watched for e in layers)


@every_host
@pytest.mark.parametrize('activation', [nn.ReLU(), nn.GELU('tanh'), nn.SiLU()], ids=repr)
@torch.no_grad()
def test_another_activation_is_called(activation, case, calls):
    model, layers = build(case)
    for layer in layers[1:]:
        old = layer.parts().activation
        owner = layer.layers if hasattr(layer, 'layers') else layer
        [name] = [name for name, each in owner.named_children() if each is old]
        setattr(owner, name, activation)
    with cpu.chunked(False):
        found = case.output(model, IMAGE)
    assert len(calls) == 1
    assert difference(found, case.output(model, IMAGE)) < 1e-9
