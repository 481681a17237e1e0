"""The Segmenter gives what mmseg's own inference gives, whatever the input and the batch."""

import copy

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (must precede mmseg)

# isort: split
from mmengine.config import Config
from mmseg.apis import inference_model

from segformer_plusplus import CheckpointError, SegformerPlusPlusError
from segformer_plusplus.inference import Segmenter

from .test_sources import random_image
from .tiny import with_classes


def mmseg_labels(model, image):
    """Of mmseg's API."""
    model = copy.deepcopy(model)
    model.cfg.test_pipeline = model.cfg.test_dataloader.dataset.pipeline
    model.cfg.test_pipeline.pop(2)  # mmseg takes away only its own LoadAnnotations
    return inference_model(model, image).pred_sem_seg.data[0].numpy()


def labels_of(sample):
    return sample.pred_sem_seg.data[0].numpy()


@pytest.fixture
def segmenter(segmentation):
    return Segmenter(*segmentation, device='cpu')


@pytest.mark.parametrize('size', [(64, 96), (50, 70), (200, 90)])
def test_the_labels_of_mmseg(segmenter, size):
    image = random_image(*size)
    sample = segmenter(image)
    assert sample.pred_sem_seg.data.shape == (1, *size)
    assert 'seg_logits' not in sample
    expected = mmseg_labels(segmenter.model, image)
    assert (labels_of(sample) == expected).mean() > 0.999  # resized in another order
    np.testing.assert_array_equal(segmenter.labels(image), labels_of(sample))


@pytest.mark.parametrize('batch_size', [1, 3, 8])
def test_many_images_are_as_one_by_one(segmentation, segmenter, batch_size):
    images = [random_image(*size) for size in [(64, 96)] * 3 + [(80, 96)] + [(64, 96)] * 2]
    samples = Segmenter(*segmentation, device='cpu', batch_size=batch_size)(images)
    assert [sample.img_path for sample in samples] == [f'array-{n}' for n in range(6)]
    for image, sample in zip(images, samples, strict=True):
        assert (labels_of(sample) == labels_of(segmenter(image))).mean() > 0.999


def test_a_config_of_classes_reads_no_other_picture(segmentation, segmenter, tmp_path, monkeypatch):
    config, checkpoint = segmentation
    of_classes = with_classes(Config.fromfile(config))
    image, folder = random_image(64, 96), tmp_path / 'here'
    folder.mkdir()
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    cv2.imwrite(str(folder / 'a.png'), 255 - image)  # another one of this name
    monkeypatch.chdir(folder)
    found = Segmenter(of_classes, checkpoint, device='cpu')
    assert found.classes == segmenter.classes
    np.testing.assert_array_equal(labels_of(found(tmp_path)[0]), labels_of(segmenter(image)))


@pytest.fixture
def bare(segmenter):
    """A model that somebody built: no config, no names."""
    del segmenter.model.cfg, segmenter.model.dataset_meta
    return Segmenter(segmenter.model)


def test_names_and_colours(segmenter):
    again = Segmenter(segmenter.model)
    for each in (segmenter, again):
        assert each.classes == ['road', 'car', 'sky', 'tree', 'house']
        assert each.palette.tolist()[1] == [0, 0, 142]


def test_a_model_without_a_config(segmentation, bare):
    assert bare.classes == [f'class {n}' for n in range(5)]
    voc = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert bare.palette.tolist() == voc
    image = random_image(64, 96)  # which the pipeline would not resize
    segmenter = Segmenter(*segmentation, device='cpu')
    np.testing.assert_array_equal(labels_of(bare(image)), labels_of(segmenter(image)))
    assert bare.prepare('x', random_image(50, 70))['inputs'].shape == (3, 50, 70)


def test_names_in_the_checkpoint_come_first(segmentation, tmp_path):
    config, checkpoint = segmentation
    content = torch.load(checkpoint, weights_only=True)
    content['meta'] = dict(
        dataset_meta=dict(classes=list('abcde'), palette=[[n] * 3 for n in range(5)])
    )
    torch.save(content, tmp_path / 'named.pth')
    named = Segmenter(config, tmp_path / 'named.pth', device='cpu')
    assert named.classes == list('abcde') and named.palette[3].tolist() == [3, 3, 3]


def test_logits_on_request(segmentation):
    options = {'model.labels_only': False}
    keeping = Segmenter(*segmentation, device='cpu', keep_logits=True, cfg_options=options)
    sample = keeping(random_image(50, 70))
    np.testing.assert_array_equal(sample.seg_logits.data.argmax(0).numpy(), labels_of(sample))


def test_tiles_are_predicted_at_the_images_own_size(segmentation, bare):
    image = random_image(64, 300)
    tiled = Segmenter(*segmentation, device='cpu', tile=(64, 96), overlap=32, batch_size=2)
    labels = labels_of(tiled(image))
    assert labels.shape == (64, 300)
    # left of the first seam stands the first tile alone
    np.testing.assert_array_equal(labels[:, :80], labels_of(bare(image[:, :96].copy()))[:, :80])


def test_one_that_cannot_be_read_does_not_stop_the_others(segmenter, tmp_path):
    for name in 'ac':
        cv2.imwrite(str(tmp_path / f'{name}.png'), random_image())
    assert [sample.img_path for sample in segmenter(tmp_path)] == ['a.png', 'c.png']
    (tmp_path / 'b.png').write_bytes(b'no image')
    found = list(segmenter.stream(tmp_path))
    assert [each.picture.name for each in found] == ['a.png', 'b.png', 'c.png']
    assert [each.error is None for each in found] == [True, False, True]
    assert 'b.png cannot be read' in str(found[1].error)
    with pytest.raises(SegformerPlusPlusError, match=r'b\.png cannot be read'):
        segmenter(tmp_path)


def test_a_picture_that_the_model_cannot_take_is_named(segmenter, tmp_path):
    cv2.imwrite(str(tmp_path / 'thin.png'), random_image(1, 500))
    for source, name in ((tmp_path / 'thin.png', 'thin.png'), (random_image(1, 500), 'array-0')):
        with pytest.raises(
            SegformerPlusPlusError, match=f'image .*{name} of 1x500 cannot be predicted: .*resizing'
        ):
            segmenter(source)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(batch_size=0), 'batch_size is 0'),
        (dict(batch_size=10**30), 'batch_size is 1000000'),
        (dict(device='cpu:99'), 'cpu:99: no model runs on it'),
        (dict(tile=64, overlap=64), 'overlap is 64'),
        (dict(tile=64, keep_logits=True), 'tiles keep no logits'),
    ],
)
def test_arguments_that_are_refused(segmentation, arguments, message):
    with pytest.raises(SegformerPlusPlusError, match=message):
        Segmenter(*segmentation, **{'device': 'cpu', **arguments})


def test_models_that_are_refused(segmentation, pose, segmenter):
    config, checkpoint = segmentation
    with pytest.raises(CheckpointError, match='does not fit'):
        Segmenter(config, pose[1])
    with pytest.raises(SegformerPlusPlusError, match='is a int'):
        Segmenter(3, checkpoint)
    with pytest.raises(SegformerPlusPlusError, match='no segmentor'):
        Segmenter(torch.nn.Linear(1, 1))
    with pytest.raises(SegformerPlusPlusError, match='cfg_options'):
        Segmenter(segmenter.model, cfg_options={'model.labels_only': False})
