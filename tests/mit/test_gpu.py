"""The kernels of a block: where they are taken, and that the numbers stay the same.

On a CPU an operator is its reference, so that this is about what it is given.
"""

from collections import Counter

import pytest
import torch
from kernels.counting import Kernels
from torch import nn

from segformer_plusplus import MixVisionTransformerPlusPlus
from segformer_plusplus.kernels import enabled, runtime
from segformer_plusplus.mit import cpu, ffn, gpu
from segformer_plusplus.token_merging import PRESETS

BLOCKS = 8
ALL = dict(depthwise_gelu=BLOCKS, add_norm=2 * BLOCKS)
SHARED = [dict(kv='NeighborMerging1d', share=2)] * 4


def named(strategy):
    return strategy if isinstance(strategy, str) else 'shared'


def called(model, image):
    with Kernels() as calls:
        model(image)
    return calls.ours


@pytest.fixture
def on_gpu(no_gpu, monkeypatch):
    """Makes a backbone and an image on a GPU that is not there, which is new enough."""
    monkeypatch.setattr(runtime, 'is_capable', lambda device: True)

    def make(dtype=torch.bfloat16, **settings):
        sizes = {} if 'num_heads' in settings else dict(arch='b0')
        torch.set_default_dtype(dtype)
        try:
            with torch.device('cuda'):
                model = MixVisionTransformerPlusPlus(**sizes, **settings).eval()
                return model, torch.empty(2, 3, 64, 96)
        finally:
            torch.set_default_dtype(torch.float32)

    with no_gpu:
        yield make


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('strategy', ['none', 'hq', 'fast', '2x2', SHARED], ids=named)
@torch.no_grad()
def test_every_block_is_in_kernels(strategy, dtype, on_gpu):
    found = called(*on_gpu(dtype, token_merging=strategy))
    assert {name: found[name] for name in ALL} == ALL


@torch.no_grad()
def test_a_block_works_alone(on_gpu):
    model, image = on_gpu()
    tokens, grid = model.layers[1][0](torch.empty(1, 32, 16, 24, dtype=image.dtype, device='cuda'))
    with Kernels() as calls:
        assert model.layers[1][1][0](tokens, grid).shape == tokens.shape
    assert calls.ours == dict(depthwise_gelu=1)


def test_no_kernel_where_gradients_are(on_gpu):
    model, image = on_gpu()
    assert not called(model, image)
    assert not called(model.train(), image)
    model.layers[0].requires_grad_(False)  # nor where a later layer has them
    assert not called(model.eval(), image)['add_norm']


@pytest.mark.parametrize(
    'settings, expected',
    [
        (dict(dtype=torch.float64), {}),
        (dict(act_cfg=dict(type='ReLU')), dict(add_norm=16)),
        (dict(act_cfg=dict(type='GELU', approximate='tanh')), dict(add_norm=16)),
        (dict(norm_cfg=dict(type='LN', elementwise_affine=False)), dict(depthwise_gelu=8)),
        (dict(with_cp=True, drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.1), ALL),
    ],
    ids=str,
)
@torch.no_grad()
def test_no_kernel_for_what_it_does_not_know(settings, expected, on_gpu):
    assert called(*on_gpu(**settings)) == expected


@torch.no_grad()
def test_dropout_is_not_left_out(on_gpu):
    """As where one samples from dropout: in training mode without gradients."""
    model, image = on_gpu(drop_rate=0.1)
    assert called(model.train(), image) == dict(add_norm=16)
    for block in model.layers[0][1]:
        block.ffn.layers[3].p = 0.0
    assert called(model, image) == dict(depthwise_gelu=2, add_norm=16)


@torch.no_grad()
def test_no_kernel_where_they_are_switched_off(on_gpu):
    with enabled(False):
        assert not called(*on_gpu())


@pytest.mark.parametrize('channels, norms', [(512, 8), (516, 6)])
@torch.no_grad()
def test_tokens_wider_than_a_program(channels, norms, on_gpu):
    """The last stage has 1024 channels, or 1032."""
    widths = dict(embed_dims=channels // 4, num_heads=[1, 2, 4, 8], num_layers=[1] * 4)
    assert called(*on_gpu(**widths)) == dict(depthwise_gelu=4, add_norm=norms)


def build(strategy='hq'):
    model = MixVisionTransformerPlusPlus(arch='b0', token_merging=strategy).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def in_kernels(monkeypatch):
    """Runs a model on a CPU as where all kernels are taken."""

    def run(model, image):
        with monkeypatch.context() as patch, Kernels() as calls, cpu.chunked(False):
            for module in (ffn, gpu):
                patch.setattr(module, 'runs_on', lambda *tensors: True)
            return model(image), calls.ours

    return run


IMAGE = torch.randn(2, 3, 64, 96, dtype=torch.float64)


def check(model, in_kernels, expected=ALL):
    features, count = in_kernels(model, IMAGE)
    assert count == expected
    for found, plain in zip(features, model(IMAGE), strict=True):
        assert found.stride() == plain.stride()
        torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('strategy', [*PRESETS, SHARED], ids=named)
@torch.no_grad()
def test_numbers_stay_the_same(strategy, in_kernels):
    check(build(strategy), in_kernels)


@torch.no_grad()
def test_a_stage_without_blocks(in_kernels):
    model = MixVisionTransformerPlusPlus(num_layers=[1, 0, 2, 0]).double().eval()
    check(model, in_kernels, dict(depthwise_gelu=3, add_norm=6))


@pytest.mark.parametrize(
    'name, norms, activations',
    [
        ('1.0', 12, 8),
        ('1.1.attn', 16, 8),
        ('1.1.attn.norm', 16, 8),
        ('1.0.norm1', 16, 8),  # the first of its stage, which follows no residual
        ('1.1.norm1', 15, 8),
        ('1.1.norm2', 15, 8),
        ('1.1.drop_path', 16, 8),
        ('1.1.ffn', 16, 8),
        ('1.1.ffn.layers.1', 16, 7),
        ('1.1.ffn.layers.2', 16, 7),
        ('1.1.ffn.layers.3', 16, 7),
        ('2', 15, 8),
    ],
)
@pytest.mark.parametrize('how', ['hook', 'forward'])
@torch.no_grad()
def test_what_watches_a_module_is_honoured(how, name, norms, activations, in_kernels):
    model, seen = build(), []
    module = model.layers[2].get_submodule(name)

    def change(module, inputs, output):
        seen.append(name)
        return output * 1.5

    before = model(IMAGE)
    if how == 'hook':
        handle = module.register_forward_hook(change)
    else:
        old = module.forward
        module.forward = lambda *inputs: change(None, None, old(*inputs))
    check(model, in_kernels, dict(depthwise_gelu=activations, add_norm=norms))
    assert seen and len(seen) % 2 == 0  # in kernels as often as without
    assert not torch.allclose(model(IMAGE)[3], before[3])
    if how == 'hook':
        handle.remove()
        check(model, in_kernels)


@torch.no_grad()
def test_a_block_of_another_class_is_called(in_kernels):
    model = build()
    block = model.layers[3][1][1]

    class Doubled(type(block)):
        def forward(self, *inputs):
            return 2 * super().forward(*inputs)

    block.__class__ = Doubled
    check(model, in_kernels, dict(depthwise_gelu=8, add_norm=12))


@torch.no_grad()
def test_a_block_that_is_compiled_is_called(in_kernels):
    model = build()
    model.layers[3][1][1].compile(backend='eager')
    check(model, in_kernels, dict(depthwise_gelu=8, add_norm=12))


@torch.no_grad()
def test_a_graph_has_the_same_kernels(monkeypatch):
    for module in (ffn, gpu):
        monkeypatch.setattr(module, 'runs_on', lambda *tensors: True)
    model, graphs = build(SHARED), []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    found = torch.compile(model, backend=keep, fullgraph=True)(IMAGE)
    [graph] = graphs
    calls = Counter(
        str(n.target).split('.')[1] for n in graph.graph.nodes if 'plus' in str(n.target)
    )
    assert calls == ALL
    monkeypatch.undo()
    for one, other in zip(found, model(IMAGE), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
