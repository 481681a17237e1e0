"""The head against mmseg's own."""

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import SegformerHead
from mmseg.structures import SegDataSample

from segformer_plusplus.segmentation import SegformerHeadPlusPlus


def build_pair(**kwargs):
    cfg = dict(
        in_channels=[8, 16, 40, 64], in_index=[0, 1, 2, 3], channels=24, num_classes=5,
        dropout_ratio=0.0, align_corners=False, norm_cfg=dict(type='BN'),
    )  # fmt: skip
    cfg |= kwargs
    ours, theirs = SegformerHeadPlusPlus(**cfg), SegformerHead(**cfg)
    for module in ours.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def pyramid(size, batch=2, dtype=torch.float32):
    grids = [(-(-size[0] // s), -(-size[1] // s)) for s in (1, 2, 4, 8)]
    channels = (8, 16, 40, 64)
    return [
        torch.randn(batch, c, *g, dtype=dtype).contiguous(memory_format=torch.channels_last)
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
