"""The heads: one against mmseg's own, the one with linear levels against the same written out."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.models.decode_heads import SegformerHead
from mmseg.structures import SegDataSample
from patching.test_adapted import KINDS

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.mit import cpu
from segformer_plusplus.segmentation import SegformerHeadPlusPlus, SegformerLinearHead

CHANNELS = 8, 16, 40, 64


def randomise_norms(model):
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                torch.nn.init.normal_(tensor)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def build_pair(**kwargs):
    cfg = dict(
        in_channels=list(CHANNELS), in_index=[0, 1, 2, 3], channels=24, num_classes=5,
        dropout_ratio=0.0, align_corners=False, norm_cfg=dict(type='BN'),
    )  # fmt: skip
    cfg |= kwargs
    ours, theirs = randomise_norms(SegformerHeadPlusPlus(**cfg)), SegformerHead(**cfg)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def build_linear(**kwargs):
    settings = dict(in_channels=CHANNELS[:3], channels=24, num_classes=5, dropout_ratio=0.0)
    init_default_scope('mmseg')
    return randomise_norms(MODELS.build(dict(type='SegformerLinearHead', **settings | kwargs)))


def pyramid(size, channels=CHANNELS, dtype=torch.float32):
    grids = [(-(-size[0] // 2**i), -(-size[1] // 2**i)) for i in range(len(channels))]
    return [
        torch.randn(2, c, *g, dtype=dtype).contiguous(memory_format=torch.channels_last)
        for c, g in zip(channels, grids, strict=True)
    ]


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('size', [(16, 16), (19, 26), (8, 9)], ids=str)
@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        dict(norm_cfg=None),
        dict(interpolate_mode='nearest', align_corners=None),
        dict(align_corners=True),
    ],
    ids=str,
)
def test_equal_to_mmseg(training, size, kwargs):
    ours, theirs = build_pair(**kwargs)
    ours.train(training)
    theirs.train(training)
    features = pyramid(size)
    actual, expected = ours(features), theirs(features)
    assert actual.shape == expected.shape
    assert ((actual - expected).abs().max() / expected.abs().max()).item() < 1e-5
    for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)  # live norms


def test_gradients_equal_mmseg():
    ours, theirs = (model.double().train() for model in build_pair())
    features = pyramid((13, 18), dtype=torch.float64)
    inputs = []
    for model in (ours, theirs):
        leaves = [f.clone().requires_grad_() for f in features]
        model(leaves).square().mean().backward()
        inputs.append(leaves)
    for a, b in zip(*inputs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad)


CROSS_ENTROPY = dict(type='CrossEntropyLoss', loss_weight=0.7)


@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        dict(loss_decode=[CROSS_ENTROPY, dict(type='DiceLoss')]),
        dict(loss_decode=[CROSS_ENTROPY, CROSS_ENTROPY]),
        dict(sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=20)),
        dict(ignore_index=2),
    ],
    ids=['default', 'two losses', 'one name twice', 'sampler', 'ignore_index'],
)
@pytest.mark.parametrize('labelled', [1.0, 0.6, 0.0])
def test_losses_equal_mmseg(kwargs, labelled):
    ours, theirs = (model.double() for model in build_pair(**kwargs))
    logits = torch.randn(2, 5, 9, 12, dtype=torch.float64)
    labels = torch.randint(0, 5, (2, 1, 33, 40))
    labels[torch.rand(labels.shape) >= labelled] = kwargs.get('ignore_index', 255)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    actual, expected = (head.loss_by_feat(logits, samples) for head in (ours, theirs))
    assert list(actual) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name].double(), value.double(), rtol=1e-5, atol=1e-5, equal_nan=True
        )


def written_out(head, features):
    """Linear layers on tokens, levels resized and concatenated from the deepest to the first."""
    size, levels = features[0].shape[2:], []
    for feature, conv in reversed(list(zip(features, head.convs, strict=True))):
        tokens = feature.flatten(2).transpose(1, 2)
        tokens = F.linear(tokens, conv.conv.weight.flatten(1), conv.conv.bias)
        level = tokens.transpose(1, 2).unflatten(2, feature.shape[2:])
        corners = head.align_corners
        levels.append(F.interpolate(level, size=size, mode='bilinear', align_corners=corners))
    weight = torch.cat(head.fusion_conv.conv.weight.chunk(len(features), dim=1)[::-1], dim=1)
    fused = F.conv2d(torch.cat(levels, dim=1), weight)
    norm = head.fusion_conv.norm
    fused = F.batch_norm(
        fused, norm.running_mean.clone(), norm.running_var.clone(), norm.weight, norm.bias,
        training=head.training, eps=1e-5,
    )  # fmt: skip
    return F.conv2d(fused.relu(), head.conv_seg.weight, head.conv_seg.bias)


@pytest.mark.parametrize('inference', [False, True])
@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('chunked', [False, True])
@pytest.mark.parametrize('corners', [False, True])
def test_linear_levels_equal_the_same_written_out(training, inference, chunked, corners):
    head = build_linear(align_corners=corners).train(training)
    features = pyramid((19, 26), CHANNELS[:3])
    with torch.inference_mode(inference), cpu.chunked(chunked):
        expected = written_out(head, features)
        actual = head(features)
    assert actual.shape == expected.shape == (2, 5, 19, 26)
    assert (actual - expected).abs().max().item() < 1e-5 * expected.abs().max().item()


def called(head, features):
    """Every module as it is, on levels that are resized and concatenated."""
    levels = [conv(feature) for conv, feature in zip(head.convs, features, strict=True)]
    size = features[0].shape[2:]
    levels = [F.interpolate(x, size, mode='bilinear', align_corners=False) for x in levels]
    return head.conv_seg(head.fusion_conv(torch.cat(levels, dim=1)))


@pytest.mark.parametrize('chunked', [False, True])
@pytest.mark.parametrize('kind', ['replaced', 'a class of its own', 'hook'])
@pytest.mark.parametrize('build', [lambda: build_pair()[0], build_linear], ids=['mmseg', 'linear'])
def test_every_part_that_is_changed_is_called(build, kind, chunked):
    """One at a time, so that the others are plain."""
    change, _ = KINDS[kind]
    names = [name for name, _ in build().named_modules()]
    for name in names:
        if not name.startswith(('convs.', 'fusion_conv', 'conv_seg')):
            continue
        head = build().eval()
        features = pyramid((19, 26), [conv.conv.in_channels for conv in head.convs])
        with torch.inference_mode(), cpu.chunked(chunked):
            before = head(features)
            change(head.get_submodule(name))
            actual, expected = head(features), called(head, features)
        assert (actual - expected).abs().max() < 1e-5 * expected.abs().max(), name
        assert (actual - before).abs().max() > 1e-2 * before.abs().max(), name


def test_linear_levels_have_no_norm_and_no_activation():
    head = build_linear()
    assert all(
        not conv.with_norm and not conv.with_activation and conv.conv.bias is not None
        for conv in head.convs
    )
    assert head.fusion_conv.conv.bias is None and head.fusion_conv.norm.eps == 1e-5
    assert sorted({key.split('.')[0] for key in head.state_dict()}) == [
        'conv_seg', 'convs', 'fusion_conv',
    ]  # fmt: skip


def test_the_linear_head_trains():
    head = build_linear().train()
    head(pyramid((19, 26), CHANNELS[:3])).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_dropout_only_in_training():
    head, features = build_linear(dropout_ratio=0.9).eval(), pyramid((19, 26), CHANNELS[:3])
    with torch.no_grad():
        assert torch.equal(head(features), head(features))
        head.train()
        assert not torch.equal(head(features), head(features))


def test_channels_and_index_that_do_not_go_together():
    with pytest.raises(SegformerPlusPlusError, match='in_channels .* and decode_head.in_index'):
        SegformerLinearHead([8, 16, 40], channels=24, num_classes=5, in_index=[0, 1])
