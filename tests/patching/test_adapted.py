"""What is no plain layer at the moment of the call is called, in every library and in ours."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from checkpoints.models import difference
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from segformer_plusplus import apply_token_merging
from segformer_plusplus.patching import find_backbones

from .models import CASES, mmseg_segmentor, own_segmentor
from .test_reversible import IMAGE, run

NAMES = ['mmseg', 'SegformerForSemanticSegmentation', 'smp.Segformer', 'own']
PRODUCTS = nn.Linear, nn.Conv2d
WATCHED = *PRODUCTS, nn.LayerNorm, _BatchNorm, nn.GELU, nn.ReLU, nn.MultiheadAttention


class Quantised(torch.Tensor):
    """A weight of 8 bits that only knows how to be multiplied with, as torchao's."""

    @staticmethod
    def __new__(cls, weight):
        return torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)

    def __init__(self, weight):
        self.scale = weight.abs().max() / 20
        self.codes = (weight / self.scale).round().to(torch.int8)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (F.linear, F.conv2d, F.multi_head_attention_forward):
            plain = [a.codes * a.scale if isinstance(a, cls) else a for a in args]
            return func(*plain, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(f'{func} of a quantised weight')


def quantised(layer):
    name = 'weight' if hasattr(layer, 'weight') else 'in_proj_weight'
    weight = Quantised(getattr(layer, name).detach())
    setattr(layer, name, nn.Parameter(weight, requires_grad=False))


def replaced(layer):
    """An adapter as kohya's: its forward stands in the instance."""
    old = layer.forward

    def forward(*args, **kwargs):
        out = old(*args, **kwargs)
        if isinstance(out, tuple):
            return out[0] + 0.3 * torch.tanh(out[0]), *out[1:]
        return out + 0.3 * torch.tanh(out)

    layer.forward = forward


def offloaded(layer):
    """Weights are elsewhere until the layer is called, as accelerate does it."""
    kept, old = dict(layer.named_parameters(recurse=False)), layer.forward

    def rest():
        for name, weight in kept.items():
            setattr(layer, name, nn.Parameter(weight.to('meta'), requires_grad=False))

    def forward(*args, **kwargs):
        for name, weight in kept.items():
            setattr(layer, name, nn.Parameter(3 * weight, requires_grad=False))
        out = old(*args, **kwargs)
        rest()
        return out

    rest()
    layer.forward = forward


def subclassed(layer):
    kind = type(layer)

    def forward(self, *args, **kwargs):
        return changed(kind.forward(self, *args, **kwargs))

    layer.__class__ = type(f'Adapted{kind.__name__}', (kind,), {'forward': forward})


class Shifted(nn.Module):
    def forward(self, weight):
        return weight + 0.1


def parametrised(layer):
    name = 'weight' if hasattr(layer, 'weight') else 'in_proj_weight'
    nn.utils.parametrize.register_parametrization(layer, name, Shifted())


def spectrally_normalised(layer):
    torch.manual_seed(0)  # it draws where to begin
    spectral_norm(layer)


def changed(out):
    return (1.5 * out[0], *out[1:]) if isinstance(out, tuple) else 1.5 * out


def normalised(layer):
    parametrizations.weight_norm(layer)
    layer.parametrizations.weight.original0.data.mul_(3)


def normalised_in_the_old_way(layer):
    weight_norm(layer).weight_g.data.mul_(3)


KINDS = {
    'replaced': (replaced, WATCHED),
    'a class of its own': (subclassed, WATCHED),
    'offloaded': (offloaded, (*PRODUCTS, nn.LayerNorm, _BatchNorm)),
    'hook': (
        lambda layer: layer.register_forward_hook(lambda module, args, out: changed(out)),
        WATCHED,
    ),
    'hook with keywords': (
        lambda layer: layer.register_forward_hook(
            lambda module, args, kwargs, out: changed(out), with_kwargs=True
        ),
        WATCHED,
    ),
    'pre-hook': (
        lambda layer: layer.register_forward_pre_hook(
            lambda module, args: tuple(1.5 * each for each in args)
        ),
        (*PRODUCTS, nn.LayerNorm, _BatchNorm, nn.GELU, nn.ReLU),
    ),
    'parametrised': (parametrised, (*PRODUCTS, nn.LayerNorm, nn.MultiheadAttention)),
    'weight norm': (normalised, PRODUCTS),
    'old weight norm': (normalised_in_the_old_way, PRODUCTS),
    'old spectral norm': (spectrally_normalised, PRODUCTS),
    'pruned': (lambda layer: prune.l1_unstructured(layer, 'weight', 0.5), PRODUCTS),
    'quantised': (quantised, (*PRODUCTS, nn.MultiheadAttention)),
}


def layers(model, kinds):
    # torch's attention never calls its own last layer, so that there is nothing to be equal to
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, kinds) and not name.endswith('out_proj')
    ]


def adapt(model, kind):
    change, kinds = KINDS[kind]
    for module in layers(model, kinds):
        change(module)


def watch(model):
    """Counts the calls of the layers, also of such as a parametrisation has renamed."""
    seen = Counter()
    for module in layers(model, WATCHED):
        kind = next(each.__name__ for each in WATCHED if isinstance(module, each))
        module.register_forward_hook(lambda *_, kind=kind: seen.update([kind]))
    return seen


def reference(name):
    """An unpatched model; of ours, mmseg's with its weights."""
    if name != 'own':
        return CASES[name].build()
    theirs = mmseg_segmentor()
    theirs.load_state_dict(own_segmentor().state_dict(), strict=True)
    return theirs


@pytest.mark.parametrize('when', ['before', 'after'])
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', NAMES)
def test_a_layer_that_is_not_plain_is_called(name, kind, when):
    case, model, theirs = CASES[name], CASES[name].build().double(), reference(name).double()
    image = IMAGE.double()
    with torch.no_grad():
        plain = case.output(theirs, image)
        if when == 'after':
            apply_token_merging(model, 'none')
        adapt(model, kind)
        adapt(theirs, kind)
        if when == 'before':
            apply_token_merging(model, 'none')
        expected = case.output(theirs, image)
        assert difference(expected, plain) > 1e-4
        assert difference(case.output(model, image), expected) < 1e-8


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('strategy', ['none', 'hq', '2x2'])
def test_every_layer_is_called_as_often_as_before(name, strategy):
    model, theirs = CASES[name].build(), reference(name)
    apply_token_merging(model, strategy)
    counts = []
    for each in (theirs, model):
        seen = watch(each)
        run(CASES[name], each)
        counts.append(seen)
    assert counts[0] == counts[1] and sum(counts[0].values()) > 50


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('kind', ['forward', 'forward_pre'])
def test_hooks_on_all_modules_see_every_layer(name, kind):
    model, theirs = CASES[name].build(), reference(name)
    apply_token_merging(model, 'none')
    counts = []
    for each in (theirs, model):
        seen = Counter()
        inside = set(layers(each, WATCHED))
        register = getattr(nn.modules.module, f'register_module_{kind}_hook')
        handle = register(
            lambda m, *_, seen=seen, inside=inside: (
                seen.update([type(m).__name__]) if m in inside else None
            )
        )
        try:
            run(CASES[name], each)
        finally:
            handle.remove()
        counts.append(seen)
    assert sum(counts[0].values()) == sum(counts[1].values()) > 50


@pytest.mark.parametrize('name', NAMES[:3])
def test_a_hook_on_what_holds_the_layers_is_called_as_before(name):
    """Blocks, Mix-FFNs, their sequences and wrappers, dropouts: one hook at a time."""
    case, model = CASES[name], CASES[name].build()
    names = [n for n, m in model.named_modules() if n and not isinstance(m, WATCHED)]
    names = [n for n in names if n.count('.') > 3 and not n.endswith(('attn_drop', 'out_proj'))]
    counts = []
    for patched in (False, True):
        if patched:
            apply_token_merging(model, 'none')
        seen = Counter()
        for each in names:
            handle = model.get_submodule(each).register_forward_hook(
                lambda *_, each=each, seen=seen: seen.update([each])
            )
            run(case, model)
            handle.remove()
        counts.append(seen)
    assert counts[0] == counts[1] and len(counts[0]) > 5


def test_a_hook_on_a_part_of_our_blocks_is_called():
    model, seen = own_segmentor(), Counter()
    parts = {n: m for n, m in model.backbone.layers[0][1][0].named_modules() if n}
    parts |= {f'head.{n}': m for n, m in model.decode_head.named_modules() if 'convs.' in n}
    parts |= {'fusion': model.decode_head.fusion_conv, 'logits': model.decode_head.conv_seg}
    for name, module in parts.items():
        handle = module.register_forward_hook(lambda *_, name=name: seen.update([name]))
        run(CASES['own'], model)
        handle.remove()
    assert set(parts) - set(seen) == {'attn.attn.out_proj'}  # which torch never calls
    assert {name for name, count in seen.items() if count > 1} == {'ffn.layers.3', 'drop_path'}


@pytest.mark.parametrize('name', NAMES[:3])
def test_plain_layers_run_on_their_weights(name, monkeypatch):
    """None of the methods that do the same more slowly is called."""
    case, model = CASES[name], CASES[name].build()
    apply_token_merging(model, 'none')
    (backbone,) = find_backbones(model)
    for theirs in backbone.swaps:
        monkeypatch.setattr(theirs, 'forward', pytest.fail)
    run(case, model)


@pytest.mark.parametrize('name', NAMES)
def test_gradients_reach_hooks(name):
    model, seen = CASES[name].build(), Counter()
    apply_token_merging(model, 'none')
    for module in layers(model, PRODUCTS):
        module.register_full_backward_hook(lambda m, *_: seen.update([m]))
    CASES[name].output(model, IMAGE).square().mean().backward()
    assert set(seen) == set(layers(model, PRODUCTS)) and set(seen.values()) == {1}


@pytest.mark.parametrize('name', ['SegformerForSemanticSegmentation', 'smp.Segformer'])
def test_layers_that_torch_quantised(name):
    case, models = CASES[name], [CASES[name].build(), reference(name)]
    models = [torch.ao.quantization.quantize_dynamic(each, {nn.Linear}) for each in models]
    apply_token_merging(models[0], 'none')
    outputs, counts = [], []
    for model in models:
        seen = Counter()
        for module in layers(model, torch.ao.nn.quantized.dynamic.Linear):
            module.register_forward_hook(lambda *_, seen=seen: seen.update(['call']))
        outputs.append(run(case, model))
        counts.append(seen['call'])
    assert counts[0] == counts[1] > 20
    # inputs are rounded to 8 bits, so that the last bit decides on more than itself
    assert (outputs[0] - outputs[1]).abs().mean() < 0.02 * outputs[1].std()


@pytest.mark.parametrize('name', ['mmseg', 'own'])
def test_an_attention_that_is_called_weighs_merged_keys(name):
    """The same numbers as from the weights, with a bias for the size of every merged key."""
    model = CASES[name].build().double()
    stages = [dict(kv=dict(type='BipartiteSoftMatching1d', ratio=0.4), proportional_attention=True)]
    apply_token_merging(model, stages * 4)
    outputs = []
    for hooked in (False, True):
        for module in layers(model, nn.MultiheadAttention) if hooked else []:
            module.register_forward_hook(lambda *_: None)
        with torch.inference_mode():
            outputs.append(CASES[name].output(model, IMAGE.double()))
    assert difference(*outputs) < 1e-9


def test_a_class_whose_forward_was_replaced(monkeypatch):
    case, model = CASES['smp.Segformer'], CASES['smp.Segformer'].build()
    theirs = case.build()
    apply_token_merging(model, 'none')
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, 'forward', lambda self, x: 2 * forward(self, x))
    assert difference(run(case, model), run(case, theirs)) < 1e-5


def test_dropout_that_is_left_on_in_the_head():
    """Monte Carlo dropout: the model predicts, its dropout is in training."""
    model = own_segmentor()
    model.decode_head.dropout = nn.Dropout(0.5)
    case = CASES['own']
    before = run(case, model.eval())
    model.decode_head.dropout.train()
    assert difference(run(case, model), before) > 1e-3
