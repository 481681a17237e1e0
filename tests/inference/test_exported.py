"""An exported file predicts what the model predicts that it was made of."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config

pytest.importorskip('mmseg')
pytest.importorskip('onnxscript')
pytest.importorskip('openvino')

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.cli.export import find_class_names
from segformer_plusplus.export import export_model, read_metadata
from segformer_plusplus.export.formats import METADATA, METADATA_VERSION
from segformer_plusplus.inference import PoseEstimator, Segmenter, open_model
from segformer_plusplus.inference.exported import exported_config
from segformer_plusplus.inference.tiling import Tiles, predict_tiles

from .test_sources import random_image
from .tiny import POSE, SEGMENTATION, build_model

SHAPE = 64, 96
FORMATS = {'.onnx': 'onnx', '.xml': 'openvino', '.pt2': 'torch-export'}
AS_THEY_ARE = {'test_dataloader.dataset.pipeline': [dict(type='PackSegInputs')]}
"""Images are not resized."""


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """Returns a call that makes config and weights, all labels of which occur."""

    def make(text=SEGMENTATION, **changes):
        folder = tmp_path_factory.mktemp('model')
        cfg = Config.fromstring(text, '.py')
        cfg.merge_from_dict({key.replace('__', '.'): each for key, each in changes.items()})
        cfg.dump(folder / 'config.py')
        built = build_model(cfg.model, cfg.default_scope)
        with torch.no_grad():
            for name, each in built.state_dict().items():
                if each.is_floating_point() and 'running_var' not in name:
                    each.add_(0.3 * torch.randn(each.shape))
        if hasattr(built, 'decode_head'):
            centre(built)
        torch.save(dict(state_dict=built.state_dict(), meta={}), folder / 'weights.pth')
        return folder / 'config.py', folder / 'weights.pth'

    return make


def centre(built):
    """Moves the logits so that no label is everywhere."""
    with torch.no_grad():
        logits = built(torch.randn(1, built.backbone.in_channels, *SHAPE), None, mode='tensor')
        middle = logits.flatten(2).median(2).values[0]
        if len(middle) == 1:
            middle -= torch.tensor(built.decode_head.threshold).logit()
        built.decode_head.conv_seg.bias -= middle


@pytest.fixture(scope='module')
def plain(model):
    return model()


@pytest.fixture(scope='module')
def merging(model):
    return model(model__backbone__token_merging='2x2')


@pytest.fixture(scope='module')
def exported(plain, tmp_path_factory):
    """Returns a call that exports the plain model, or another one."""
    made = {}

    def make(suffix, of=plain, shape=SHAPE, **options):
        key = suffix, of, shape, *options.items()
        if key not in made:
            opened = open_model(*of, device='cpu')
            made[key] = tmp_path_factory.mktemp('file') / f'model{suffix}'
            options.setdefault('class_names', find_class_names(opened))
            export_model(opened, made[key], format=FORMATS[suffix], shape=shape, **options)
        return made[key]

    return make


def share(labels, expected):
    """The share of equal labels, of which there are several."""
    assert len(np.unique(expected)) > 1
    assert labels.shape == expected.shape
    return (labels == expected).mean()


@pytest.mark.parametrize(
    ('suffix', 'options'),
    [
        ('.onnx', {}),
        ('.xml', dict(with_preprocessing=True)),
        ('.pt2', dict(token_merging='2x2')),
        ('.xml', dict(output='labels')),
        ('.pt2', dict(output='labels', with_preprocessing=True)),
    ],
)
def test_labels_of_the_model(plain, exported, suffix, options):
    path = exported(suffix, **options)
    file = Segmenter(str(path))
    model = Segmenter(*plain, device='cpu', token_merging=options.get('token_merging'))
    assert file.classes == model.classes and (file.palette == model.palette).all()
    image = random_image(*SHAPE)
    assert share(file.labels(image), model.labels(image)) >= 0.999
    large = random_image(2 * SHAPE[0], 2 * SHAPE[1])  # which the pipeline halves
    if 'output' not in options:
        assert share(file.labels(large), model.labels(large)) >= 0.999
        return
    half = cv2.resize(large, SHAPE[::-1], interpolation=cv2.INTER_LINEAR)
    expected = cv2.resize(model.labels(half).astype(np.uint8), None, fx=2, fy=2, interpolation=0)
    assert share(file.labels(large), expected) >= 0.999


def normalised(model, image):
    """(1, 3, H, W) as the model's own preprocessor makes it."""
    inputs = [torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))]
    return model.data_preprocessor(dict(inputs=inputs, data_samples=None), False)['inputs']


def by_hand(model, image, window):
    """Labels of a smaller image, padded with 0 after normalisation."""
    inputs = normalised(model, image)
    bottom, right = (most - side for most, side in zip(window, image.shape, strict=False))
    with torch.inference_mode():
        labels = model.predict_labels(F.pad(inputs, (0, right, 0, bottom)))
    return labels[0, : image.shape[0], : image.shape[1]].numpy()


@pytest.mark.parametrize('inside', [False, True], ids=['normalised', 'raw'])
@pytest.mark.parametrize('size', [(50, 70), (64, 40), (20, 96)])
def test_smaller_images_are_padded(plain, exported, size, inside):
    path = exported('.pt2', output='labels', with_preprocessing=inside)
    image = random_image(*size)
    found = Segmenter(str(path), cfg_options=AS_THEY_ARE).labels(image)
    # what is padded as 0..255 is rounded, so that rounding is seen near to the border
    least = 0.97 if inside else 0.999
    assert share(found, by_hand(open_model(*plain, device='cpu'), image, SHAPE)) >= least


@pytest.mark.parametrize('size', [(128, 192), (65, 97), (150, 60), (40, 250)])
@pytest.mark.parametrize('output', ['logits', 'labels'])
def test_larger_images_are_cut_into_tiles(plain, exported, size, output):
    path = exported('.pt2', output=output)
    image, model = random_image(*size), open_model(*plain, device='cpu')
    expected = predict_tiles(
        image,
        Tiles.of(SHAPE),
        lambda tiles: [by_hand(model, each, SHAPE) for each in tiles],
        1,
        np.uint8,
    )
    found = Segmenter(str(path), cfg_options=AS_THEY_ARE).labels(image)
    assert share(found, expected) >= 0.999


@pytest.mark.parametrize('size', [(64, 128), (100, 150), (30, 300)])
def test_a_dynamic_size_pads_to_its_step(merging, exported, size):
    path = exported('.pt2', merging, (128, 192), dynamic_size=True)
    image = random_image(*size)
    window = [max(2, -(-side // 64)) * 64 for side in size]
    expected = by_hand(open_model(*merging, device='cpu'), image, window)
    assert share(Segmenter(str(path), cfg_options=AS_THEY_ARE).labels(image), expected) >= 0.999


@pytest.mark.parametrize('batch_size', [1, 2, 3, 4])
def test_a_batch_that_the_file_does_not_have(plain, exported, batch_size):
    path = exported('.onnx', batch_size=3)
    images = [random_image(*SHAPE) for _ in range(4)]
    model = Segmenter(*plain, device='cpu')
    samples = Segmenter(str(path), batch_size=batch_size)(images)
    for image, sample in zip(images, samples, strict=True):
        assert share(sample.pred_sem_seg.data[0].numpy(), model.labels(image)) >= 0.999


GREY = dict(
    model__backbone__in_channels=1,
    model__data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[120.0], std=[60.0], bgr_to_rgb=False
    ),
)
BCE = dict(type='CrossEntropyLoss', use_sigmoid=True)


@pytest.mark.parametrize(
    ('changes', 'options'),
    [
        (GREY, {}),
        (GREY, dict(with_preprocessing=True)),
        (
            dict(
                model__decode_head__num_classes=2,
                model__decode_head__out_channels=1,
                model__decode_head__threshold=0.3,
                model__decode_head__loss_decode=BCE,
            ),
            {},
        ),
        (dict(model__decode_head__align_corners=True), {}),
        (dict(model__data_preprocessor__bgr_to_rgb=False), dict(with_preprocessing=True)),
    ],
    ids=['grey', 'grey, raw', 'one logit', 'corners', 'BGR'],
)
def test_other_models(model, exported, tmp_path, changes, options):
    of = model(**changes)
    if changes is GREY:
        config = Config.fromfile(of[0])
        config.test_dataloader.dataset.pipeline[0].color_type = 'grayscale'
        config.dump(of[0])
    path = exported('.pt2', of, **options)
    cv2.imwrite(str(tmp_path / 'a.png'), random_image(80, 120))
    found, expected = (
        Segmenter(*each, device='cpu')(tmp_path / 'a.png').pred_sem_seg.data[0].numpy()
        for each in ((path,), of)
    )
    assert share(found, expected) >= 0.999


@pytest.mark.parametrize('flip', [True, False])
def test_keypoints_of_the_model(model, exported, flip):
    pytest.importorskip('xtcocotools')
    of = model(POSE, model__test_cfg__flip_test=flip)
    path = exported('.pt2', of, (64, 48), with_preprocessing=flip)
    image = random_image(100, 120)
    boxes = {'array-0': [[5, 4, 60, 80], [20.5, 10, 90, 99], [0, 0, 119, 99]]}
    found, expected = (
        PoseEstimator(*each, device='cpu', boxes=boxes)(image).pred_instances
        for each in ((path,), of)
    )
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=1e-3)
    np.testing.assert_allclose(found.keypoint_scores, expected.keypoint_scores, rtol=1e-3)


def rewrite(source: Path, target: Path, change) -> Path:
    """Copies an ONNX file with other metadata: what the change returns of them, as text."""
    import onnx

    loaded = onnx.load(source)
    text = change(read_metadata(source))
    del loaded.metadata_props[:]
    if text is not None:
        onnx.helper.set_model_props(loaded, {METADATA: text})
    onnx.save(loaded, target)
    return target


def test_a_file_of_another_program_is_told_what_it_is(plain, exported, tmp_path):
    path = rewrite(exported('.onnx'), tmp_path / 'theirs.onnx', lambda _: None)
    with pytest.raises(SegformerPlusPlusError) as caught:
        Segmenter(str(path))
    flags = {
        'model.backbone.output': 'logits',
        'model.backbone.shape': list(SHAPE),
        'model.decode_head.num_classes': 5,
        'model.data_preprocessor.mean': [123.675, 116.28, 103.53],
        'model.data_preprocessor.std': [58.395, 57.12, 57.375],
        'model.data_preprocessor.bgr_to_rgb': True,
    }
    assert all(f'{flag}=' in str(caught.value) for flag in flags)
    image = random_image(*SHAPE)
    found = Segmenter(str(path), cfg_options=flags).labels(image)
    assert share(found, Segmenter(*plain, device='cpu').labels(image)) >= 0.999


def test_a_file_of_before_predicting_was_recorded(plain, exported, tmp_path):
    def old(metadata):
        for key in ('version', 'predicting'):
            del metadata[key]
        return json.dumps(metadata)

    path = rewrite(exported('.onnx'), tmp_path / 'old.onnx', old)
    image = random_image(*SHAPE)
    found, model = Segmenter(str(path)), Segmenter(*plain, device='cpu')
    assert found.classes == model.classes
    assert share(found.labels(image), model.labels(image)) >= 0.999


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda m: json.dumps(m | dict(version=METADATA_VERSION + 1)), 'later segformer-plusplus'),
        (lambda m: json.dumps(m | dict(version='new')), "has version 'new'"),
        (lambda m: json.dumps(m)[:-9], 'its metadata is no JSON object'),
        (lambda m: '[1, 2]', 'its metadata is no JSON object'),
        (lambda m: '{"version": 2}', "its metadata cannot be understood .KeyError: 'output'"),
        (lambda m: json.dumps(m | dict(shape=5)), 'its metadata cannot be understood'),
    ],
    ids=['later', 'word', 'cut short', 'list', 'empty', 'number'],
)
def test_metadata_that_cannot_be(exported, tmp_path, change, message):
    path = rewrite(exported('.onnx'), tmp_path / 'bad.onnx', change)
    with pytest.raises(SegformerPlusPlusError, match=message) as caught:
        open_model(str(path))
    assert 'bad.onnx' in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('suffix', ['.onnx', '.xml', '.pt2', '.bin', 'no .bin'])
def test_a_file_that_is_cut_short(exported, tmp_path, suffix):
    source = exported(suffix if suffix in FORMATS else '.xml')
    for each in source.parent.iterdir():
        content = each.read_bytes()
        (tmp_path / each.name).write_bytes(
            content[: len(content) // 2] if each.suffix == suffix else content
        )
    if suffix == 'no .bin':
        (tmp_path / 'model.bin').unlink()
    with pytest.raises(SegformerPlusPlusError, match=f'model{source.suffix}') as caught:
        open_model(str(tmp_path / source.name))
    assert '\n' not in str(caught.value)


def test_what_a_file_cannot_change(exported, plain):
    path = str(exported('.pt2'))
    with pytest.raises(SegformerPlusPlusError, match='has its strategy in its graph'):
        open_model(path, token_merging='hq')
    with pytest.raises(SegformerPlusPlusError, match='--device cuda: .* runs on the CPU'):
        open_model(path, device='cuda')
    with pytest.raises(SegformerPlusPlusError, match='takes float32 images, not torch.bfloat16'):
        open_model(path, dtype=torch.bfloat16)
    with pytest.raises(SegformerPlusPlusError, match="'mmseg', .* of 'mmpose'"):
        open_model(path, scope='mmpose')


@pytest.mark.parametrize('suffix', FORMATS)
def test_a_file_that_is_not_there(tmp_path, suffix):
    with pytest.raises(SegformerPlusPlusError, match=f'exported model not found: .*gone{suffix}'):
        open_model(str(tmp_path / f'gone{suffix}'))


def test_nothing_that_a_file_names_is_run(model, exported, tmp_path):
    """Steps and codecs are those of a list; a name of another class is not even looked up."""

    def harmful(metadata):
        steps = metadata['predicting']['pipeline']
        steps += [dict(type='os.system'), dict(type='LoadImageFromFile', backend_args='x')]
        steps[0] |= dict(type='Resize', scale=[96, 64], keep_ratio=True, command='rm')
        return json.dumps(metadata)

    path = rewrite(exported('.onnx'), tmp_path / 'steps.onnx', harmful)
    steps = exported_config(path).test_dataloader.dataset.pipeline
    assert [step.type for step in steps] == ['CheckedLoadImageFromFile', 'Resize', 'PackSegInputs']
    assert 'command' not in steps[1]
    pytest.importorskip('xtcocotools')

    def codec(metadata):
        metadata['predicting']['codec'] |= dict(type='subprocess.Popen')
        return json.dumps(metadata)

    pose = exported('.onnx', model(POSE), (64, 48))
    path = rewrite(pose, tmp_path / 'codec.onnx', codec)
    with pytest.raises(SegformerPlusPlusError, match="'subprocess.Popen', which mmpose has not"):
        exported_config(path)
