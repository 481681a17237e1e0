"""A model in another runtime: the same labels, converted once for a size, and kept."""

import logging
import os
import threading
from importlib.util import find_spec

import numpy as np
import pytest
import torch

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.inference import PoseEstimator, Segmenter, backends

BACKENDS = ['onnxruntime', *(['openvino'] if find_spec('openvino') else [])]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / 'cache'
    monkeypatch.setattr(backends, 'cache_folder', lambda: folder)
    return folder


@pytest.fixture
def conversions(monkeypatch):
    """The shapes that models were converted for."""
    shapes, export = [], backends.export_model

    def counted(*arguments, shape, **options):
        shapes.append(shape)
        return export(*arguments, shape=shape, **options)

    monkeypatch.setattr(backends, 'export_model', counted)
    return shapes


@pytest.fixture
def undecided(segmentation, tmp_path):
    """Config and checkpoint of a model that gives no class more than others: several are seen."""
    config, checkpoint = segmentation
    model = Segmenter(config, checkpoint, device='cpu').model
    with torch.no_grad():
        logits = model.decode_head(model.extract_feat(torch.randn(2, 3, 64, 96)))
        model.decode_head.conv_seg.bias -= logits.mean(dim=(0, 2, 3))
    balanced = tmp_path / 'balanced.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), balanced)
    return config, balanced


def pictures(*sizes):
    return [np.random.randint(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def labels_of(segmenter, images):
    return [sample.pred_sem_seg.data[0].numpy() for sample in segmenter(images)]


@pytest.mark.parametrize('backend', BACKENDS)
def test_labels_are_those_of_the_model(undecided, conversions, backend):
    # the pipeline makes 64x96 of the first two, 64x64 of the third
    images = pictures((64, 96), (128, 192), (80, 80), (64, 96))
    expected = labels_of(Segmenter(*undecided, token_merging='2x2', device='cpu'), images)
    converted = Segmenter(*undecided, token_merging='2x2', backend=backend, batch_size=3)
    for found, wanted in zip(labels_of(converted, images), expected, strict=True):
        assert (found == wanted).mean() > 0.999 and len(np.unique(wanted)) > 1
    assert conversions == [(64, 96), (64, 64)]


def test_keypoints_are_those_of_the_model(pose, conversions):
    (image,) = pictures((90, 60))
    expected = PoseEstimator(*pose, device='cpu')(image).pred_instances.keypoints
    found = PoseEstimator(*pose, backend='onnxruntime')(image).pred_instances.keypoints
    assert np.abs(found - expected).max() < 1e-2 and conversions == [(64, 48)]


def test_files_are_kept_for_the_same_weights_strategy_and_size(segmentation, cache, conversions):
    (image,) = pictures((64, 96))
    first = labels_of(Segmenter(*segmentation, backend='onnxruntime'), [image])
    second = Segmenter(*segmentation, backend='onnxruntime')
    assert np.array_equal(labels_of(second, [image]), first) and len(conversions) == 1
    labels_of(Segmenter(*segmentation, backend='onnxruntime', token_merging='2x2'), [image])
    assert len(conversions) == 2
    other = Segmenter(*segmentation, device='cpu').model
    other.decode_head.conv_seg.bias.data += 1
    labels_of(Segmenter(other, backend='onnxruntime'), [image])
    assert len(conversions) == 3 == len(list(cache.glob('*.onnx')))


def test_a_damaged_file_is_made_anew(segmentation, cache, conversions):
    (image,) = pictures((64, 96))
    expected = labels_of(Segmenter(*segmentation, backend='onnxruntime'), [image])
    (file,) = cache.glob('*.onnx')
    file.write_bytes(file.read_bytes()[:1000])
    assert np.array_equal(
        labels_of(Segmenter(*segmentation, backend='onnxruntime'), [image]), expected
    )
    assert len(conversions) == 2


def test_of_two_at_once_one_converts(segmentation, conversions):
    (image,) = pictures((64, 96))
    opened = [Segmenter(*segmentation, backend='onnxruntime') for _ in range(2)]
    found = {}
    threads = [
        threading.Thread(target=lambda s=s, i=i: found.update({i: labels_of(s, [image])}))
        for i, s in enumerate(opened)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(found[0], found[1]) and len(conversions) == 1


def test_a_full_disk_leaves_nothing(segmentation, cache, monkeypatch):
    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(SegformerPlusPlusError, match='no picture can be predicted.*No space left'):
        Segmenter(*segmentation, backend='onnxruntime')(pictures((64, 96)))
    assert {each.suffix for each in cache.iterdir()} == {'.lock'}


def test_of_many_sizes_the_last_stay_in_pytorch(segmentation, conversions, monkeypatch, caplog):
    monkeypatch.setattr(backends, 'MOST_SIZES', 1)
    segmenter = Segmenter(*segmentation, backend='onnxruntime')
    images = pictures((64, 96), (80, 80), (90, 60))
    expected = labels_of(Segmenter(*segmentation, device='cpu'), images)
    with caplog.at_level(logging.WARNING):
        found = labels_of(segmenter, images)
    assert conversions == [(64, 96)]
    assert all(np.array_equal(a, b) for a, b in zip(found[1:], expected[1:], strict=True))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(backend='tensorrt'), "backend='tensorrt' is unknown, use one of torch, openvino"),
        (
            dict(backend='onnxruntime', cfg_options={'model.test_cfg.mode': 'slide'}),
            "test_cfg.mode is 'slide'.*model.test_cfg.mode=whole",
        ),
    ],
)
def test_what_cannot_be_converted_is_said_before_a_picture(segmentation, options, message):
    with pytest.raises(SegformerPlusPlusError, match=message):
        Segmenter(*segmentation, **options)
