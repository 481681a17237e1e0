"""Damaged images and wrong labels are named."""

import cv2
import numpy as np
import pytest

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.loading.images import CheckedLoadImageFromFile
from segformer_plusplus.segmentation import CheckedLoadAnnotations


@pytest.fixture(params=['.png', '.jpg'])
def image_file(request, tmp_path):
    path = tmp_path / f'street{request.param}'
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    cv2.imwrite(str(path), image)
    return path


def test_same_pixels_as_opencv(image_file):
    loaded = CheckedLoadImageFromFile()(dict(img_path=str(image_file)))
    expected = cv2.imread(str(image_file)).astype(int)
    assert loaded['img_shape'] == (60, 90)
    tolerance = 0 if image_file.suffix == '.png' else 3  # two decoders of one lossy format
    assert np.abs(loaded['img'].astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize('share', [0, 0.02, 0.5, 0.97])
def test_truncated_image(image_file, share):
    data = image_file.read_bytes()
    image_file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SegformerPlusPlusError, match=f'image .*{image_file.name} cannot be read'):
        CheckedLoadImageFromFile()(dict(img_path=str(image_file)))


def test_missing_image(tmp_path):
    with pytest.raises(SegformerPlusPlusError, match='nothing.png cannot be read'):
        CheckedLoadImageFromFile()(dict(img_path=str(tmp_path / 'nothing.png')))


def load_labels(tmp_path, labels, reduce_zero_label=False, **kwargs):
    path = tmp_path / 'labels.png'
    cv2.imwrite(str(path), labels)
    results = dict(seg_map_path=str(path), reduce_zero_label=reduce_zero_label, seg_fields=[])
    return CheckedLoadAnnotations(**kwargs)(results)


def test_labels_are_read_as_they_are(tmp_path):
    labels = np.random.default_rng(0).integers(0, 19, (20, 30), dtype=np.uint8)
    labels[0] = 255
    assert np.array_equal(load_labels(tmp_path, labels, num_classes=19)['gt_seg_map'], labels)


def test_a_label_outside_the_classes(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[3, 4] = 33  # Cityscapes' labelIds taken for labelTrainIds
    with pytest.raises(
        SegformerPlusPlusError, match=r'labels.png has the label 33.*0\.\.18 and 255'
    ):
        load_labels(tmp_path, labels, num_classes=19)


def test_classes_are_counted_after_the_zero_label_is_taken_away(tmp_path):
    labels = np.full((4, 4), 150, np.uint8)
    labels[0] = 0
    loaded = load_labels(tmp_path, labels, reduce_zero_label=True, num_classes=150)
    assert set(np.unique(loaded['gt_seg_map'])) == {149, 255}
    with pytest.raises(SegformerPlusPlusError, match='has the label 150'):
        load_labels(tmp_path, labels + 1, reduce_zero_label=True, num_classes=150)


@pytest.mark.parametrize('labels', [np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 259, np.uint16)])
def test_colours_and_16_bit_ids_are_no_labels(tmp_path, labels):
    """259 would silently become class 3."""
    with pytest.raises(SegformerPlusPlusError, match='expected one channel of 8 bits'):
        load_labels(tmp_path, labels, num_classes=19)


def test_truncated_label_map(tmp_path):
    labels = np.random.default_rng(0).integers(0, 19, (60, 90), dtype=np.uint8)
    load_labels(tmp_path, labels, num_classes=19)
    path = tmp_path / 'labels.png'
    path.write_bytes(path.read_bytes()[:1000])
    results = dict(seg_map_path=str(path), reduce_zero_label=False, seg_fields=[])
    with pytest.raises(SegformerPlusPlusError, match='label map .*labels.png cannot be read'):
        CheckedLoadAnnotations(num_classes=19)(results)


def test_a_label_map_that_is_postscript_is_not_opened(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, '_open', lambda _: pytest.fail('opened'))
    path = tmp_path / 'labels.png'
    path.write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n')
    results = dict(seg_map_path=str(path), reduce_zero_label=False, seg_fields=[])
    with pytest.raises(SegformerPlusPlusError, match=r'labels\.png cannot be read: it is EPS'):
        CheckedLoadAnnotations(num_classes=19)(results)
