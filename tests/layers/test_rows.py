"""Working on a few rows at a time gives what working on the whole gives."""

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from segformer_plusplus import MixVisionTransformerPlusPlus
from segformer_plusplus.layers import MixFFN, fuse_pyramid, fusion, mix_ffn

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
def rows_used(monkeypatch):
    """Counts how often the fusion went by rows."""
    calls = []
    real = fusion.fuse_in_rows
    monkeypatch.setattr(fusion, 'fuse_in_rows', lambda *args: calls.append(1) or real(*args))
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
def test_fusion(rows_used, kind, stages, size):
    model, features = build_fusion(stages, **kind), pyramid(size, stages)
    with torch.no_grad():
        actual = fuse(model, features)
        expected = fuse(model, features, in_rows=False)
    assert len(rows_used) == 1
    assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_fusion_in_other_precisions(rows_used, dtype):
    model = build_fusion(norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')).to(dtype)
    features = [feature.to(dtype) for feature in pyramid((32, 48))]
    with torch.no_grad():
        actual, expected = (
            fuse(model, features),
            fuse(model.double(), [f.double() for f in features]),
        )
    assert actual.dtype == dtype and rows_used
    assert relative_error(actual.double(), expected) < (1e-12 if dtype == torch.float64 else 5e-2)


@pytest.mark.parametrize(
    'case', ['gradients', 'training', 'group norm', 'nearest', 'corners', '3x3']
)
def test_fusion_goes_by_rows_only_where_that_is_the_same(rows_used, case):
    norm = dict(type='GN', num_groups=4) if case == 'group norm' else dict(type='BN')
    model = build_fusion(norm_cfg=norm, act_cfg=dict(type='ReLU'))
    if case == '3x3':
        model['project'] = nn.Conv2d(24, 7, 3, padding=1)
    model.train(case == 'training')
    kwargs = {'nearest': dict(mode='nearest'), 'corners': dict(align_corners=True)}.get(case, {})
    with torch.set_grad_enabled(case == 'gradients'):
        fuse(model, pyramid((16, 24)), **kwargs)
    assert not rows_used


@pytest.mark.parametrize('hidden', [1, 700, 5000, 2**20])
@pytest.mark.parametrize('grid', [(16, 12), (7, 5), (1, 9), (33, 1)], ids=str)
def test_mix_ffn(monkeypatch, hidden, grid):
    monkeypatch.setattr(mix_ffn, 'HIDDEN', hidden)
    model = MixFFN(8, 32, dict(type='GELU'), ffn_drop=0.1).eval()
    tokens = torch.randn(2, grid[0] * grid[1], 8)
    with torch.no_grad():
        actual = model(tokens, grid)
        model.in_rows = False
        expected = model(tokens, grid)
    assert relative_error(actual, expected) < 1e-6


def test_mix_ffn_keeps_gradients_and_dropout_whole(monkeypatch):
    monkeypatch.setattr(mix_ffn, 'HIDDEN', 1)
    model = MixFFN(8, 32, dict(type='GELU'), ffn_drop=0.5)
    calls = []
    model.layers[1].register_forward_hook(lambda *_: calls.append(1))
    real = MixFFN._hidden
    monkeypatch.setattr(
        MixFFN, '_hidden', lambda self, x: calls.append(x.shape[1]) or real(self, x)
    )
    tokens = torch.randn(1, 12 * 6, 8)
    model(tokens, (12, 6))  # training
    model.eval()(tokens, (12, 6))  # evaluation with gradients
    assert calls == [12, 12]


@pytest.mark.parametrize('strategy', ['none', 'hq', '2x2'])
def test_backbone_switch(monkeypatch, strategy):
    monkeypatch.setattr(mix_ffn, 'HIDDEN', 3000)
    image = torch.randn(1, 3, 97, 130, dtype=torch.float64)  # no match tips over by rounding
    models = [
        MixVisionTransformerPlusPlus(arch='b0', token_merging=strategy, ffn_in_rows=in_rows)
        for in_rows in (True, False)
    ]
    models = [model.double().eval() for model in models]
    models[1].load_state_dict(models[0].state_dict())
    assert [m.in_rows for m in models[1].modules() if isinstance(m, MixFFN)] == [False] * 8
    with torch.no_grad():
        for actual, expected in zip(*(model(image) for model in models), strict=True):
            assert relative_error(actual, expected) < 1e-12
