"""The head with linear levels, against the same computation written out."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, init_default_scope

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.mit import cpu
from segformer_plusplus.segmentation import SegformerLinearHead

CHANNELS = [8, 16, 40]


def build(**kwargs):
    torch.manual_seed(0)
    settings = dict(in_channels=CHANNELS, channels=24, num_classes=5, dropout_ratio=0.0) | kwargs
    init_default_scope('mmseg')
    head = MODELS.build(dict(type='SegformerLinearHead', **settings))
    norm = head.fusion_conv.norm
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        torch.nn.init.normal_(tensor)
    torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    return head


def pyramid(batch=2, size=(19, 26)):
    torch.manual_seed(1)
    grids = [(-(-size[0] // s), -(-size[1] // s)) for s in (1, 2, 4)]
    return [torch.randn(batch, c, *grid) for c, grid in zip(CHANNELS, grids, strict=True)]


def written_out(head, features):
    """Linear layers on tokens, levels resized and concatenated from the deepest to the first."""
    size, levels = features[0].shape[2:], []
    for feature, conv in reversed(list(zip(features, head.convs, strict=True))):
        tokens = feature.flatten(2).transpose(1, 2)
        tokens = F.linear(tokens, conv.conv.weight.flatten(1), conv.conv.bias)
        level = tokens.transpose(1, 2).unflatten(2, feature.shape[2:])
        levels.append(F.interpolate(level, size=size, mode='bilinear', align_corners=False))
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
def test_equal_to_the_same_written_out(training, inference, chunked):
    head, features = build().train(training), pyramid()
    with torch.inference_mode(inference), cpu.chunked(chunked):
        expected = written_out(head, features)
        actual = head(features)
    assert actual.shape == expected.shape == (2, 5, 19, 26)
    assert (actual - expected).abs().max().item() < 1e-5 * expected.abs().max().item()


def test_levels_have_no_norm_and_no_activation():
    head = build()
    assert all(
        not conv.with_norm and not conv.with_activation and conv.conv.bias is not None
        for conv in head.convs
    )
    assert head.fusion_conv.conv.bias is None and head.fusion_conv.norm.eps == 1e-5
    assert sorted({key.split('.')[0] for key in head.state_dict()}) == [
        'conv_seg', 'convs', 'fusion_conv',
    ]  # fmt: skip


def test_trains():
    head = build().train()
    head(pyramid()).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_dropout_only_in_training():
    head, features = build(dropout_ratio=0.9).eval(), pyramid()
    with torch.no_grad():
        assert torch.equal(head(features), head(features))
        head.train()
        assert not torch.equal(head(features), head(features))


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(in_index=[0, 1]),
        dict(in_channels=[8, 16], in_index=[0]),
        dict(in_index=[0, 1, 2, 3]),
    ],
)
def test_channels_and_index_that_do_not_go_together(kwargs):
    settings = dict(in_channels=CHANNELS, channels=24, num_classes=5) | kwargs
    with pytest.raises(SegformerPlusPlusError, match='in_channels .* and decode_head.in_index'):
        SegformerLinearHead(**settings)
