"""The decoder of a GPU: a few products and one kernel, which on a CPU is its reference."""

import pytest
import torch
from kernels.counting import Kernels
from mmcv.cnn import ConvModule
from mmseg.registry import MODELS
from torch import nn

import segformer_plusplus  # noqa: F401  what a config names is registered
from segformer_plusplus.kernels import enabled, runtime
from segformer_plusplus.kernels.fusion import fused_logits
from segformer_plusplus.mit import cpu, fusion

from .test_chunked import build_fusion, fuse, pyramid, randomise_norms, relative_error

CHANNELS = 8, 16, 40, 64
HEADS = 'SegformerHeadPlusPlus', 'SegformerLinearHead'


@pytest.fixture
def kernel_calls(monkeypatch):
    """Kernels are taken; counts how often."""
    calls = []

    def counted(*args):
        calls.append(args)
        return fused_logits(*args)

    monkeypatch.setattr(fusion, 'runs_on', lambda *tensors: True)
    monkeypatch.setattr(fusion, 'fused_logits', counted)
    return calls


def build_head(kind, **settings):
    head = MODELS.build(
        dict(
            type=kind, in_channels=CHANNELS, channels=24, num_classes=5, norm_cfg=dict(type='BN'),
            **settings,
        )
    )  # fmt: skip
    randomise_norms(head)
    return head.eval()


def build_pose_head():
    pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it
    from segformer_plusplus.pose import SegformerHeatmapHead

    head = SegformerHeatmapHead(CHANNELS, 7, channels=24)
    randomise_norms(head)
    return head.eval()


@pytest.fixture(params=[*HEADS, 'pose'])
def head(request):
    return build_pose_head() if request.param == 'pose' else build_head(request.param)


@pytest.mark.parametrize('size', [(16, 24), (19, 7), (1, 1)], ids=str)
def test_heads(head, size, kernel_calls):
    features = pyramid(size)
    with torch.no_grad():
        found = head(features)
        assert len(kernel_calls) == 1
        again = head([each.contiguous(memory_format=torch.channels_last) for each in features])
        with cpu.chunked(False):
            expected = head(features)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(found, expected) < 1e-5
    assert relative_error(again, expected) < 1e-5


def test_heads_fold_anew_after_eval(head):
    features = pyramid((16, 24))
    with torch.no_grad():
        before = head(features)
        # mmengine's EMAHook swaps weights so before an evaluation, which no version counts
        head.fusion_conv.conv.weight.data.mul_(2)
        after = head.eval()(features)
        with cpu.chunked(False):
            expected = head(features)
    assert relative_error(after, before) > 1e-3
    assert relative_error(after, expected) < 1e-5


@pytest.mark.parametrize(
    'kind',
    [
        dict(norm_cfg=dict(type='BN', affine=False), act_cfg=dict(type='ReLU')),
        dict(norm_cfg=dict(type='BN'), act_cfg=None, bias=True),
        dict(norm_cfg=None, act_cfg=dict(type='ReLU')),
        dict(norm_cfg=None, act_cfg=dict(type='ReLU'), bias=False),
        dict(norm_cfg=None, act_cfg=None, bias=False),
    ],
    ids=str,
)
@pytest.mark.parametrize('stages', [1, 2, 4])
@pytest.mark.parametrize('bias', [True, False])
def test_other_modules(kernel_calls, kind, stages, bias):
    model, features = build_fusion(stages, **kind), pyramid((11, 14), stages)
    model['project'] = nn.Conv2d(24, 7, 1, bias=bias)
    with torch.no_grad():
        found = fuse(model, features)
        with cpu.chunked(False):
            expected = fuse(model, features)
    assert len(kernel_calls) == 1
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize('case', ['levels', 'classes', 'activation', 'gradients'])
def test_what_the_kernel_does_not_know_goes_to_pytorch(kernel_calls, case):
    model = build_fusion(norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU'))
    features = pyramid((8, 12))
    if case == 'levels':
        model['convs'].append(ConvModule(3, 24, 1, act_cfg=dict(type='ReLU')))
        model['fusion'] = ConvModule(24 * 5, 24, 1)
        features.append(torch.randn(2, 3, 2, 2))
    if case == 'classes':
        model['project'] = nn.Conv2d(24, 257, 1)
    if case == 'activation':
        model['fusion'].activate = nn.GELU()
    with torch.set_grad_enabled(case == 'gradients'):
        found = fuse(model, features)
        with cpu.chunked(False):
            expected = fuse(model, features)
    assert not kernel_calls
    assert relative_error(found.detach(), expected.detach()) < 1e-5


def test_other_activations_of_levels_are_called(kernel_calls):
    model, features = build_fusion(act_cfg=dict(type='ReLU')), pyramid((8, 12))
    model['convs'][1].activate = nn.Tanh()
    with torch.no_grad():
        found = fuse(model, features)
        with cpu.chunked(False):
            expected = fuse(model, features)
    assert len(kernel_calls) == 1
    assert relative_error(found, expected) < 1e-5


def test_the_kernel_is_in_a_compiled_graph(kernel_calls, monkeypatch):
    monkeypatch.setattr(fusion, 'fused_logits', fused_logits)
    head, features = build_head(HEADS[0]), pyramid((8, 12))
    seen = []

    def compiler(graph, example):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    with torch.no_grad():
        found = torch.compile(head, backend=compiler, fullgraph=True)(features)
        assert relative_error(found, head(features)) < 1e-5
    torch.compiler.reset()
    assert any('fused_logits' in each for each in seen)


@pytest.mark.parametrize('kernels, most', [(True, (9, 5)), (False, (67, 59))])
@pytest.mark.parametrize('kind', HEADS)
def test_launches(kind, kernels, most, no_gpu, monkeypatch):
    monkeypatch.setattr(runtime, 'is_capable', lambda device: True)
    with no_gpu, torch.no_grad(), torch.device('cuda'), enabled(kernels):
        head = build_head(kind)
        features = [
            torch.empty_like(each, memory_format=torch.channels_last) for each in pyramid((64, 96))
        ]
        folded = fusion.fold_pyramid(head.convs, head.fusion_conv)  # fake ones are not kept
        monkeypatch.setattr(fusion, 'fold_pyramid', lambda *modules: folded)
        with Kernels() as launches:
            logits = head(features)
    assert logits.shape == (2, 5, 64, 96)
    assert launches.total <= most[HEADS.index(kind)]
    assert ('fused_logits' in launches.names) == kernels
