"""Other people's models with our weights compute the same; what they cannot express is refused."""

import sys

import pytest

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (must precede mmseg)

# isort: split
import torch
from inference.tiny import build_model

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.evaluation.benchmark.contenders import OpenMMLabModel
from segformer_plusplus.evaluation.benchmark.openvino_peer import OpenVinoModel, check_openvino
from segformer_plusplus.evaluation.benchmark.peers import (
    TransformersModel,
    check_peers,
    check_same_logits,
    make_levels_linear,
    mmseg_peer,
    tomesd_peer,
    transformers_settings,
)
from segformer_plusplus.mit.cpu import is_chunked
from segformer_plusplus.token_merging import TomesdMatching

IMAGES = torch.randn(1, 3, 64, 96)


@pytest.mark.parametrize('head', ['SegformerHeadPlusPlus', 'SegformerLinearHead'])
def test_mmseg(tiny, head):
    config, build = tiny
    ours = build(head=head)
    theirs = build_model(mmseg_peer(config(head)))
    make_levels_linear(theirs, ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert type(theirs).__name__ == 'EncoderDecoder'
    assert type(theirs.backbone).__name__ == 'MixVisionTransformer'
    assert type(theirs.decode_head).__name__ == 'SegformerHead'
    error = check_same_logits(OpenMMLabModel(ours), OpenMMLabModel(theirs), IMAGES, 1e-5)
    assert 0 <= error < 1e-5


def test_transformers(tiny):
    pytest.importorskip('transformers')
    config, build = tiny
    ours = build()
    theirs = TransformersModel(config(), ours)
    assert type(theirs.module).__name__ == 'SegformerForSemanticSegmentation'
    assert theirs.details['attention'] in ('sdpa', 'eager')
    assert check_same_logits(OpenMMLabModel(ours), theirs, IMAGES, 1e-5) < 1e-5
    assert {n.eps for n in theirs.module.modules() if type(n).__name__ == 'LayerNorm'} == {1e-6}
    theirs.module.decode_head.classifier.bias.data.add_(1)
    with pytest.raises(SegformerPlusPlusError, match='the logits of transformers differ by'):
        check_same_logits(OpenMMLabModel(ours), theirs, IMAGES, 1e-4, 'transformers')


@pytest.mark.parametrize('head', ['SegformerHeadPlusPlus', 'SegformerLinearHead'])
def test_openvino(tiny, head):
    pytest.importorskip('openvino')
    _, build = tiny
    ours = build(head=head)
    theirs = OpenVinoModel(ours, 'a test')
    assert check_same_logits(OpenMMLabModel(ours), theirs, IMAGES, 1e-5) < 1e-5
    assert not theirs.uses_torch
    assert is_chunked()  # the switch is set back


@pytest.mark.parametrize('preset', ['hq', 'fast'])
def test_tomesd(tiny, preset):
    _, build = tiny
    ours = build(token_merging=preset)
    theirs = tomesd_peer(ours)
    blocks = [blocks[0].attn.merging for _, blocks, _ in theirs.module.backbone.layers]
    mergers = [merger for stage in blocks for merger in (stage.q, stage.kv) if merger]
    assert len(mergers) == 4 and all(isinstance(each, TomesdMatching) for each in mergers)
    images = torch.randn(1, 3, 128, 160)
    assert check_same_logits(OpenMMLabModel(ours), theirs, images, 1e-5) < 1e-5
    unmerged = OpenMMLabModel(build())
    with pytest.raises(SegformerPlusPlusError, match='differ by'):
        check_same_logits(unmerged, theirs, images, 1e-4)


def test_tomesd_shares_the_weights(tiny):
    _, build = tiny
    ours = build(token_merging='hq')
    theirs = tomesd_peer(ours)
    assert {id(p) for p in theirs.module.parameters()} == {id(p) for p in ours.parameters()}
    assert not isinstance(ours.backbone.layers[0][1][0].attn.merging.kv, TomesdMatching)


def test_tomesd_keeps_downsampling(tiny):
    _, build = tiny
    stages = [dict(kv=dict(type='BipartiteSoftMatching2d', ratio=0.6)), {}, {}, {}]
    ours = build(token_merging=dict(stages=stages, downsampling=dict(factor=2, mode='bilinear')))
    assert tomesd_peer(ours).module.backbone.token_merging.downsampling.factor == 2


@pytest.mark.parametrize('preset', ['none', '2x2'])
def test_tomesd_has_nothing_to_say_about_other_presets(tiny, preset):
    _, build = tiny
    assert tomesd_peer(build(token_merging=preset)) is None


def test_a_model_that_is_not_ours_has_no_peer(tiny):
    config, _ = tiny
    with pytest.raises(SegformerPlusPlusError, match='this one is of EncoderDecoder, MixVision'):
        check_peers(['mmseg'], mmseg_peer(config()))


@pytest.mark.parametrize(
    ('part', 'setting', 'message'),
    [
        ('decode_head', dict(type='SegformerHeadPlusPlus'), 'type=SegformerLinearHead'),
        ('decode_head', dict(align_corners=True), 'decode_head.align_corners=True, only False'),
        ('decode_head', dict(interpolate_mode='nearest'), "interpolate_mode='nearest'"),
        ('backbone', dict(qkv_bias=False), 'backbone.qkv_bias=False, only True'),
        ('backbone', dict(act_cfg=dict(type='ReLU')), "act_cfg.type='ReLU', only 'GELU'"),
        ('backbone', dict(out_indices=(0, 1, 2)), 'out_indices=.0, 1, 2., only'),
    ],
)
def test_what_transformers_cannot_express(tiny, part, setting, message):
    config, _ = tiny
    model = config()
    model[part].update(setting)
    with pytest.raises(SegformerPlusPlusError, match=message):
        transformers_settings(model)


def test_settings_of_transformers(tiny):
    config, _ = tiny
    model = config()
    for size in ('embed_dims', 'num_heads', 'num_layers'):
        del model['backbone'][size]
    settings = transformers_settings(dict(model, backbone=dict(model['backbone'], arch='b2')))
    assert settings['hidden_sizes'] == [64, 128, 320, 512]
    assert settings['depths'] == [3, 4, 6, 3]
    assert (settings['drop_path_rate'], settings['classifier_dropout_prob']) == (0.5, 0.5)


@pytest.mark.parametrize(
    ('peer', 'extra'), [('transformers', 'hf'), ('openvino', 'export'), ('mmseg', 'mmseg')]
)
def test_a_missing_library_names_its_extra(tiny, monkeypatch, peer, extra):
    config, _ = tiny
    monkeypatch.setitem(sys.modules, peer, None)
    with pytest.raises(SegformerPlusPlusError, match=rf'segformer-plusplus\[{extra}\]'):
        check_peers([peer], config())


@pytest.mark.parametrize(('device', 'dtype'), [('cuda', 'float32'), ('cpu', 'bfloat16')])
def test_openvino_is_for_float32_on_a_cpu(device, dtype):
    with pytest.raises(SegformerPlusPlusError, match=f'not with {device} and {dtype}'):
        check_openvino(device, getattr(torch, dtype))
