"""Chunked layers give what layers that work on the whole give."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segformer_plusplus import MixVisionTransformerPlusPlus
from segformer_plusplus.mit import cpu, ffn as mix_ffn, fusion
from segformer_plusplus.mit.attention import EfficientAttention
from segformer_plusplus.mit.ffn import MixFFN
from segformer_plusplus.mit.fusion import fuse_pyramid

CHANNELS = 8, 16, 40, 64


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def randomise_norms(module):
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            if layer.affine:
                nn.init.normal_(layer.weight)
                nn.init.normal_(layer.bias)


def build_fusion(stages=4, norm_cfg=None, act_cfg=None, bias='auto'):
    settings = dict(norm_cfg=norm_cfg, act_cfg=act_cfg, bias=bias)
    convs = nn.ModuleList(ConvModule(n, 24, 1, **settings) for n in CHANNELS[:stages])
    model = nn.ModuleDict(dict(convs=convs, fusion=ConvModule(24 * stages, 24, 1, **settings)))
    model['project'] = nn.Conv2d(24, 7, 1)
    randomise_norms(model)
    return model.eval()


def fuse(model, features, **kwargs):
    return fuse_pyramid(features, model['convs'], model['fusion'], model['project'], **kwargs)


def pyramid(size, stages=4, batch=2):
    return [
        torch.randn(batch, c, -(-size[0] // 2**i), -(-size[1] // 2**i))
        for i, c in enumerate(CHANNELS[:stages])
    ]


@pytest.fixture
def chunks_used(monkeypatch):
    """Counts how often the fusion was chunked."""
    calls = []
    real = fusion.fuse_chunked
    monkeypatch.setattr(fusion, 'fuse_chunked', lambda *args: calls.append(1) or real(*args))
    return calls


@pytest.mark.parametrize(
    'kind',
    [
        dict(norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')),
        dict(norm_cfg=dict(type='BN', affine=False), act_cfg=dict(type='GELU')),
        dict(norm_cfg=dict(type='BN'), act_cfg=None, bias=True),
        dict(norm_cfg=None, act_cfg=dict(type='ReLU')),
        dict(norm_cfg=None, act_cfg=None, bias=False),
    ],
    ids=str,
)
@pytest.mark.parametrize('stages', [1, 2, 4])
@pytest.mark.parametrize('size', [(64, 32), (37, 53), (8, 9), (130, 20), (1, 1)], ids=str)
def test_fusion(chunks_used, kind, stages, size):
    model, features = build_fusion(stages, **kind), pyramid(size, stages)
    with torch.no_grad():
        actual = fuse(model, features)
        with cpu.chunked(False):
            expected = fuse(model, features)
    assert len(chunks_used) == 1
    assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_fusion_in_other_precisions(chunks_used, dtype):
    model = build_fusion(norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')).to(dtype)
    features = [feature.to(dtype) for feature in pyramid((32, 48))]
    with torch.no_grad():
        actual, expected = (
            fuse(model, features),
            fuse(model.double(), [f.double() for f in features]),
        )
    assert actual.dtype == dtype and chunks_used
    assert relative_error(actual.double(), expected) < (1e-12 if dtype == torch.float64 else 5e-2)


@pytest.mark.parametrize(
    'case', ['gradients', 'training', 'group norm', 'nearest', 'corners', '3x3']
)
def test_fusion_is_chunked_only_where_that_is_the_same(chunks_used, case, monkeypatch):
    norm = dict(type='GN', num_groups=4) if case == 'group norm' else dict(type='BN')
    model = build_fusion(norm_cfg=norm, act_cfg=dict(type='ReLU'))
    if case == '3x3':
        model['project'] = nn.Conv2d(24, 7, 3, padding=1)
    model.train(case == 'training')
    kwargs = {'nearest': dict(mode='nearest'), 'corners': dict(align_corners=True)}.get(case, {})
    monkeypatch.setattr(torch, 'cat', pytest.fail)  # nothing is concatenated for all that
    with torch.set_grad_enabled(case == 'gradients'):
        fuse(model, pyramid((16, 24)), **kwargs)
    assert not chunks_used


@pytest.mark.parametrize('hidden', [1, 700, 5000, 2**20])
@pytest.mark.parametrize('grid', [(16, 12), (7, 5), (1, 9), (33, 1)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_mix_ffn(monkeypatch, hidden, grid, dtype):
    monkeypatch.setattr(mix_ffn, 'HIDDEN', hidden)
    model = MixFFN(8, 32, nn.GELU(), ffn_drop=0.1).eval().to(dtype)
    norm = nn.LayerNorm(8).to(dtype)
    nn.init.normal_(norm.weight)
    tokens = torch.randn(2, grid[0] * grid[1], 8, dtype=dtype)
    with torch.no_grad():
        expected = tokens + model(norm(tokens), grid)
        model.add_chunked(tokens, grid, norm)
    assert relative_error(tokens, expected) < (1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize('shape', [(3, 40, 64), (1, 5000, 32), (700, 96), (1, 1, 1)], ids=str)
@pytest.mark.parametrize('out', [1, 19, 96])
@pytest.mark.parametrize('bias', [True, False])
def test_linear(monkeypatch, shape, out, bias):
    monkeypatch.setattr(cpu, 'SMALLEST', 0)
    tokens, weight = torch.randn(shape), torch.randn(out, shape[-1])
    offset = torch.randn(out) if bias else None
    with torch.no_grad():
        actual = cpu.linear(tokens, weight, offset)
        strided = cpu.linear(tokens.mT.contiguous().mT, weight, offset)
    exact = F.linear(tokens.double(), weight.double(), offset.double() if bias else None)
    assert relative_error(actual, exact) < 1e-5 and relative_error(strided, exact) < 1e-5


@pytest.fixture
def onednn_calls(monkeypatch):
    """Counts by their kind the products that go to oneDNN."""
    calls = []
    product, conv = torch.ops.mkldnn._linear_pointwise, F.conv2d
    fake = SimpleNamespace(
        _linear_pointwise=lambda *args: calls.append('product') or product(*args)
    )
    monkeypatch.setattr(torch.ops, 'mkldnn', fake)
    monkeypatch.setattr(F, 'conv2d', lambda *args: calls.append('convolution') or conv(*args))
    return calls


def test_linear_goes_to_onednn_only_for_float32_on_a_cpu(onednn_calls):
    tokens, weight = torch.randn(1000, 32), torch.randn(64, 32)
    cpu.linear(tokens, weight[:8])  # whose backward pass would be slower
    cpu.linear(tokens.double(), weight.double())
    cpu.linear(tokens[:4], weight)
    with torch.autocast('cpu', torch.bfloat16):
        cpu.linear(tokens, weight)
    with torch.backends.mkldnn.flags(enabled=False):
        cpu.linear(tokens, weight)
    assert not onednn_calls
    cpu.linear(tokens, weight)
    assert onednn_calls == ['convolution']  # which has a gradient


def test_linear_of_inference_is_a_product_that_every_counter_sees(onednn_calls):
    tokens, weight = torch.randn(1000, 32), torch.randn(64, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        cpu.linear(tokens, weight)
    assert onednn_calls == ['convolution'] and counter.get_total_flops() == 2 * 1000 * 32 * 64
    with torch.inference_mode():
        cpu.linear(tokens, weight)
    assert onednn_calls[1:] == ['product']


@pytest.mark.parametrize('bias', [slice(None, None, 2), slice(64), None], ids=str)
def test_linear_of_weights_of_any_strides(bias):
    tokens, wide = torch.randn(3, 500, 48), torch.randn(128, 192)
    offset = None if bias is None else torch.randn(128)[bias]
    with torch.no_grad():
        for weight in (wide[::2, 48:96], torch.randn(48, 64).t()):
            exact = F.linear(
                tokens.double(), weight.double(), None if offset is None else offset.double()
            )
            assert relative_error(cpu.linear(tokens, weight, offset), exact) < 1e-5


def test_gradients_of_linear(monkeypatch):
    monkeypatch.setattr(cpu, 'SMALLEST', 0)
    inputs = [torch.randn(s).requires_grad_() for s in ((2, 900, 32), (64, 32), (64,))]
    grad = torch.randn(2, 900, 64)
    results = torch.autograd.grad(cpu.linear(*inputs), inputs, grad)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = torch.autograd.grad(F.linear(*exact), exact, grad.double())
    for got, wanted in zip(results, expected, strict=True):
        assert relative_error(got, wanted) < 1e-5


@pytest.mark.parametrize('heads', [1, 2, 5])
@pytest.mark.parametrize('num_keys', [1, 7, 64, 1500])
@pytest.mark.parametrize('scores', [1, 2**20])
@pytest.mark.parametrize('bias', [True, False])
def test_attention(monkeypatch, heads, num_keys, scores, bias):
    monkeypatch.setattr(cpu, 'SCORES', scores)
    dims = 32 * heads
    tokens = torch.randn(900, dims) * 3
    key, value = torch.randn(2, num_keys, dims)
    before, after = (
        (torch.randn(dims, dims) / dims**0.5, torch.randn(dims) if bias else None) for _ in range(2)
    )
    with torch.no_grad():
        memory = cpu.KeyValue(key, value, heads, before, after)
        actual = torch.cat([memory.attend(part) for part in tokens.split(memory.num_queries)])
    before, after = ([t if t is None else t.double() for t in pair] for pair in (before, after))
    q, k, v = (
        t.unflatten(1, (heads, 32)).transpose(0, 1)
        for t in (F.linear(tokens.double(), *before), key.double(), value.double())
    )
    out = ((q @ k.mT / 32**0.5).softmax(-1) @ v).transpose(0, 1).flatten(1)
    assert relative_error(actual, F.linear(out, *after)) < 1e-5


@pytest.mark.parametrize('strategy', ['none', 'hq', '2x2'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('arch', [dict(arch='b0'), dict(arch='b0', qkv_bias=False)], ids=str)
def test_backbone_switch(monkeypatch, strategy, dtype, arch):
    monkeypatch.setattr(mix_ffn, 'HIDDEN', 3000)
    monkeypatch.setattr(cpu, 'SCORES', 5000)
    monkeypatch.setattr(cpu, 'SMALLEST', 100)
    if strategy == 'hq' and dtype == torch.float32:
        pytest.skip('a match may tip over by rounding')
    image = torch.randn(2, 3, 97, 130, dtype=dtype)
    model = MixVisionTransformerPlusPlus(**arch, token_merging=strategy).to(dtype).eval()
    kept = image.clone()
    with torch.no_grad():
        features = model(image)
        with cpu.chunked(False):
            whole = model(image)
    for actual, expected in zip(features, whole, strict=True):
        assert relative_error(actual, expected) < (1e-5 if dtype == torch.float32 else 1e-12)
    assert torch.equal(image, kept)


def test_the_switch_is_set_back():
    assert cpu.is_chunked()
    with cpu.chunked(False):
        with cpu.chunked(True):
            assert cpu.is_chunked()
        assert not cpu.is_chunked()
    assert cpu.is_chunked()
    with cpu.chunked(True):
        cpu.chunked(False)
        assert not cpu.is_chunked()
    assert cpu.is_chunked()


CHUNKED = {'add_chunked', '_attend_chunked'}


@pytest.mark.parametrize(
    'case, expected',
    [
        ('plain', CHUNKED),
        ('bfloat16', {'add_chunked'}),
        *((case, set()) for case in ('off', 'gradients', 'training', 'autocast', 'traced')),
    ],
)
def test_blocks_are_chunked_only_in_plain_inference(monkeypatch, case, expected):
    calls = []
    for owner, name in ((MixFFN, 'add_chunked'), (EfficientAttention, '_attend_chunked')):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, n=name, f=real: calls.append(n) or f(*args))
    model = MixVisionTransformerPlusPlus(arch='b0').train(case == 'training')
    image = torch.randn(1, 3, 64, 64)
    if case == 'bfloat16':
        model, image = model.bfloat16(), image.bfloat16()
    with torch.set_grad_enabled(case == 'gradients'), cpu.chunked(case != 'off'):
        with torch.autocast('cpu', torch.bfloat16, enabled=case == 'autocast'):
            torch.jit.trace(model, image, check_trace=False) if case == 'traced' else model(image)
    assert set(calls) == expected


def test_block_leaves_its_input_alone():
    block = MixVisionTransformerPlusPlus(arch='b0').eval().layers[0][1][0]
    tokens = torch.randn(1, 256, 32)
    kept = tokens.clone()
    with torch.no_grad():
        block(tokens, (16, 16))
    assert torch.equal(tokens, kept)
