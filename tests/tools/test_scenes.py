"""Tests synthetic scenes: the same bytes every time, all classes, thin things."""

import cv2
import numpy as np
import pytest

from segformer_plusplus.errors import SegformerPlusPlusError
from tools.dataset_generators.scene_canvas import CLASSES, IGNORE
from tools.dataset_generators.scenes import draw_scene

SMALL = 128, 256


@pytest.fixture(scope='module')
def labels():
    """Draws the labels of ten scenes, (10, H, W)."""
    return np.stack([draw_scene((0, 0, index), (256, 512)).labels for index in range(10)])


def test_the_seed_alone_decides():
    np.random.seed(0)
    first = draw_scene(7, SMALL)
    np.random.seed(1)
    second, other = draw_scene(7, SMALL), draw_scene(8, SMALL)
    for part in ('image', 'labels'):
        assert np.array_equal(getattr(first, part), getattr(second, part))
        assert not np.array_equal(getattr(first, part), getattr(other, part))


def test_same_scene_at_another_size():
    large, small = draw_scene(3, (512, 1024)), draw_scene(3, (256, 512))
    shrunk = cv2.resize(large.labels, (512, 256), interpolation=cv2.INTER_NEAREST)
    assert (shrunk == small.labels).mean() > 0.95
    averages = [scene.image.mean((0, 1)) for scene in (large, small)]
    assert np.allclose(*averages, atol=3)


@pytest.mark.parametrize('size', [(64, 128), (65, 129), (127, 333), (300, 300), (512, 129)])
def test_any_size(size):
    scene = draw_scene(1, size)
    assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
    assert scene.labels.shape == size and scene.labels.dtype == np.uint8
    assert (scene.labels == IGNORE).mean() <= 0.05


def test_labels_are_all_train_ids_and_no_class_is_rare(labels):
    assert set(np.unique(labels)) <= {*range(len(CLASSES)), IGNORE}
    for index, name in enumerate(CLASSES):
        drawn = labels == index
        assert drawn.any((1, 2)).mean() >= 0.8 and drawn.mean() > 0.003, name


def test_poles_are_thin():
    pole = draw_scene(2, (512, 1024)).labels == CLASSES.index('pole')
    edges = np.diff(np.pad(pole, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    widths = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
    assert len(widths) > 500
    assert np.median(widths) <= 4


@pytest.mark.parametrize('seed', [-1, 'one', (0, -1), 1.5])
def test_wrong_seed_is_named(seed):
    with pytest.raises(SegformerPlusPlusError, match='seed='):
        draw_scene(seed, SMALL)
