"""What a benchmark compares with is the same model."""

import pytest

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (must precede mmseg)

# isort: split
import torch

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.engine.models import (
    build_model,
    check_same_logits,
    make_call,
    mmseg_peer,
    share_weights,
    stage_calls,
)

INPUTS = torch.randn(1, 3, 64, 96)


def config(**backbone):
    return dict(
        type='EncoderDecoderPlusPlus',
        data_preprocessor=dict(type='SegDataPreProcessor'),
        backbone=dict(
            dict(
                type='MixVisionTransformerPlusPlus', arch='b0', token_merging='none',
                init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'),
            ),
            **backbone,
        ),
        decode_head=dict(
            type='SegformerHeadPlusPlus', in_channels=[32, 64, 160, 256], in_index=[0, 1, 2, 3],
            channels=16, num_classes=19, norm_cfg=dict(type='SyncBN'), align_corners=False,
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )  # fmt: skip


@pytest.fixture
def models():
    models = {'mmseg': build_model(mmseg_peer(config())), 'ours': build_model(config())}
    share_weights(models)
    return models


def test_the_peer_is_mmsegs_own_with_our_weights(models):
    peer, ours = models.values()
    assert type(peer).__name__ == 'EncoderDecoder'
    assert type(peer.backbone).__name__ == 'MixVisionTransformer'
    assert type(peer.decode_head).__name__ == 'SegformerHead'
    assert check_same_logits(ours, peer, INPUTS, 1e-5) < 1e-5
    labels = [make_call(model, INPUTS)() for model in models.values()]
    assert (labels[0] != labels[1]).float().mean() < 1e-3


def test_other_weights_are_noticed(models):
    with torch.no_grad():
        models['ours'].decode_head.conv_seg.bias.add_(1)
    with pytest.raises(SegformerPlusPlusError, match='the logits of the peer differ by'):
        check_same_logits(models['ours'], models['mmseg'], INPUTS, 1e-4)


def test_a_model_that_is_not_ours_has_no_peer():
    with pytest.raises(SegformerPlusPlusError, match="needs a model of .*'EncoderDecoder'"):
        mmseg_peer(mmseg_peer(config()))


def test_stages_end_where_the_whole_ends(models):
    for model in models.values():
        stages = stage_calls(model, INPUTS)
        assert list(stages) == ['backbone', 'head', 'labels']
        assert stages['head']().shape == (1, 19, 16, 24)
        assert torch.equal(stages['labels'](), make_call(model, INPUTS)())
