"""Other people's models with our weights compute the same, in parts and as a whole."""

import ctypes
import gc
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (must precede mmseg)

# isort: split
import torch
from inference.tiny import build_model
from mmseg.structures import SegDataSample
from torch import nn

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.evaluation.benchmark.comparison import share_weights
from segformer_plusplus.evaluation.benchmark.contenders import OpenMMLabModel, stage_calls
from segformer_plusplus.evaluation.benchmark.peers import (
    check_openvino,
    check_peers,
    check_same_logits,
    mmseg_peer,
    tomesd_peer,
    transformers_settings,
)
from segformer_plusplus.mit.cpu import is_chunked
from segformer_plusplus.segmentation.labels import labels_of
from segformer_plusplus.token_merging import TomesdMatching

from .conftest import build_peer

IMAGES = torch.randn(2, 3, 64, 96)
NORMS = 'SegformerHeadPlusPlus'
LINEAR = 'SegformerLinearHead'
OURS = ['EncoderDecoderPlusPlus', 'MixVisionTransformerPlusPlus']
MMSEG = ['EncoderDecoder', 'MixVisionTransformer', 'SegformerHead']
TRANSFORMERS = ['SegformerForSemanticSegmentation', 'SegformerModel', 'SegformerDecodeHead']


@pytest.mark.parametrize(
    ('library', 'head', 'types'),
    [
        ('mmseg', LINEAR, MMSEG),
        ('mmseg', NORMS, MMSEG),
        ('transformers', LINEAR, TRANSFORMERS),
        ('openvino', LINEAR, [*OURS, LINEAR]),
    ],
)
def test_a_peer_has_the_same_logits_and_parts_that_make_the_whole(tiny, library, head, types):
    config, build = tiny
    ours = build(head=head)
    theirs = build_peer(library, config(head), ours)
    module = theirs.module
    found = [type(each).__name__ for each in (module, theirs.backbone, module.decode_head)]
    assert found == types
    assert check_same_logits(OpenMMLabModel(ours), theirs, IMAGES, 1e-5) < 1e-5
    check_parts(theirs)
    assert theirs.uses_torch == (library != 'openvino')
    assert is_chunked()  # the switch is set back
    if library == 'transformers':
        assert theirs.details['attention'] in ('sdpa', 'eager')
        assert {n.eps for n in module.modules() if isinstance(n, nn.LayerNorm)} == {1e-6}
        module.decode_head.classifier.bias.data.add_(1)
        with pytest.raises(SegformerPlusPlusError, match='the logits of transformers differ by'):
            check_same_logits(OpenMMLabModel(ours), theirs, IMAGES, 1e-4, 'transformers')


@pytest.mark.parametrize('library', ['mmseg', 'transformers', 'openvino'])
@pytest.mark.parametrize(
    'changes',
    [
        dict(num_classes=2, out_channels=1, threshold=0.3),
        dict(num_classes=1, threshold=0.7, align_corners=True),
        dict(align_corners=True),
    ],
    ids=['one logit', 'one class', 'corners'],
)
def test_a_peer_makes_our_labels(tiny, library, changes):
    config = tiny[0]()
    config['decode_head'].update(changes)
    if changes.get('threshold'):
        config['decode_head']['loss_decode']['use_sigmoid'] = True
    if library == 'transformers' and changes.get('align_corners'):
        with pytest.raises(SegformerPlusPlusError, match='align_corners=True, only False'):
            check_peers([library], config)
        return
    ours = build_model(config)
    torch.nn.init.normal_(ours.decode_head.conv_seg.weight)
    with torch.no_grad():
        middle = torch.tensor(((changes.get('threshold') or 0.5) + 0.5) / 2).logit()
        ours.decode_head.conv_seg.bias += middle - ours(IMAGES, None, mode='tensor').median()
    theirs = build_peer(library, config, ours)
    assert check_same_logits(OpenMMLabModel(ours), theirs, IMAGES, 1e-5) < 1e-5
    metas = [dict(ori_shape=(64, 96), img_shape=(64, 96), flip=False)] * 2
    ours.labels_only = False  # mmseg's own prediction
    expected = [
        each.pred_sem_seg.data[0]
        for each in ours.predict(IMAGES, [SegDataSample(metainfo=meta) for meta in metas])
    ]
    assert len(expected[0].unique()) > 1
    with torch.inference_mode():
        found = theirs.predict(IMAGES)
        assert torch.equal(theirs.labels(theirs.logits(IMAGES), (64, 96)), found)
    assert found.dtype == torch.int64
    assert (found == torch.stack(expected)).float().mean() > 0.999


def test_parts_of_ours(tiny):
    check_parts(OpenMMLabModel(tiny[1](token_merging='hq')))


def check_parts(model):
    stages = stage_calls(model, IMAGES)
    assert list(stages) == ['backbone', 'head', 'labels', 'noisy labels']
    assert stages['head']().shape == (2, 5, 16, 24)
    with torch.inference_mode():
        whole = model.predict(IMAGES).clone()
        logits = model.logits(IMAGES)
        assert whole.shape == (2, 64, 96) and whole.dtype == torch.int64
        assert torch.equal(whole, stages['labels']())
        # our labels take a short cut: where two classes have equal logits, either is right
        assert (whole == labels_of(logits, (64, 96))).float().mean() > 0.999


def test_openvino_follows_another_shape_and_other_threads(tiny):
    config, build = tiny
    model = build_peer('openvino', config(), build())
    threads = torch.get_num_threads()
    try:
        for size in [(1, 3, 64, 64), (2, 3, 96, 64)]:
            torch.set_num_threads(size[0])
            assert model.predict(torch.randn(size)).shape == (size[0], *size[2:])
    finally:
        torch.set_num_threads(threads)
    if sys.platform == 'linux':
        check_stack_for_signals()


def check_stack_for_signals():
    """OpenVINO leaves none that is gone: reads the memory map of Linux."""

    class Stack(ctypes.Structure):
        _fields_ = [('start', ctypes.c_void_p), ('flags', ctypes.c_int), ('size', ctypes.c_size_t)]

    gc.collect()
    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    maps = [line.split()[0].split('-') for line in Path('/proc/self/maps').read_text().splitlines()]
    mapped = any(int(low, 16) <= (stack.start or 0) < int(high, 16) for low, high in maps)
    assert not stack.start or mapped


def test_what_has_no_head_is_refused():
    with pytest.raises(SegformerPlusPlusError, match='Sequential lacks one of them'):
        OpenMMLabModel(nn.Sequential())


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
    with pytest.raises(SegformerPlusPlusError, match='differ by'):
        check_same_logits(OpenMMLabModel(build()), theirs, images, 1e-4)
    # the weights are shared, the matching is not
    assert {id(p) for p in theirs.module.parameters()} == {id(p) for p in ours.parameters()}
    assert not isinstance(ours.backbone.layers[0][1][0].attn.merging.kv, TomesdMatching)


def test_tomesd_keeps_downsampling_and_leaves_other_presets(tiny):
    _, build = tiny
    stages = [dict(kv=dict(type='BipartiteSoftMatching2d', ratio=0.6)), {}, {}, {}]
    ours = build(token_merging=dict(stages=stages, downsampling=dict(factor=2, mode='bilinear')))
    assert tomesd_peer(ours).module.backbone.token_merging.downsampling.factor == 2
    assert tomesd_peer(build(token_merging='2x2')) is None


def test_models_of_the_same_shapes_share_the_weights_of_the_first(tiny):
    config, build = tiny
    first, same, wider = build(), build_model(config()), build_model(config(mlp_ratio=2))
    before = wider.backbone.layers[0][0].projection.weight.clone()
    share_weights({'first': first, 'same': same, 'wider': wider})
    for key, value in first.state_dict().items():
        assert torch.equal(same.state_dict()[key], value)
    assert torch.equal(wider.backbone.layers[0][0].projection.weight, before)


def test_a_model_that_is_not_ours_has_no_peer(tiny):
    config, _ = tiny
    with pytest.raises(SegformerPlusPlusError, match='this one is of EncoderDecoder, MixVision'):
        check_peers(['mmseg'], mmseg_peer(config()))


@pytest.mark.parametrize(
    ('part', 'setting', 'message'),
    [
        ('decode_head', dict(type=NORMS), 'type=SegformerLinearHead'),
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
    monkeypatch.setitem(sys.modules, peer, None)
    with pytest.raises(SegformerPlusPlusError, match=rf'segformer-plusplus\[{extra}\]'):
        check_peers([peer], tiny[0]())


@pytest.mark.parametrize(('device', 'dtype'), [('cuda', 'float32'), ('cpu', 'bfloat16')])
def test_openvino_is_for_float32_on_a_cpu(device, dtype):
    with pytest.raises(SegformerPlusPlusError, match=f'not with {device} and {dtype}'):
        check_openvino(device, getattr(torch, dtype))
