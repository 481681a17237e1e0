"""Tiles cover every pixel once, whatever the sizes."""

import numpy as np
import pytest

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.inference.labels import label_dtype
from segformer_plusplus.inference.tiling import Tiles, predict_tiles


def of_pixels(parts):
    """A prediction that knows nothing but the pixel."""
    return [part[..., 0] for part in parts]


@pytest.mark.parametrize('batch_size', [1, 3])
@pytest.mark.parametrize('overlap', [0, 1, 7, 31])
@pytest.mark.parametrize('size', [(1, 1), (32, 48), (33, 48), (100, 131), (64, 96), (31, 200)])
def test_every_pixel_has_its_label(size, overlap, batch_size):
    image = np.random.default_rng().integers(0, 256, (*size, 3), dtype=np.uint8)
    seen = []

    def predict(parts):
        seen.extend(part.shape[:2] for part in parts)
        assert len(parts) <= batch_size
        return of_pixels(parts)

    tiles = Tiles(32, 48, overlap)
    labels = predict_tiles(image, tiles, predict, batch_size, np.uint8)
    np.testing.assert_array_equal(labels, image[..., 0])
    assert set(seen) == {(min(32, size[0]), min(48, size[1]))}


@pytest.mark.parametrize('length', [100, 101, 150, 333])
def test_no_label_comes_from_the_border_of_a_tile(length):
    """Except at the border of the image."""
    overlap = 16
    image = np.zeros((40, length, 3), np.uint8)

    def distance(parts):
        """Of every column to the nearer side of its tile."""
        columns = np.arange(parts[0].shape[1])
        nearer = np.minimum(columns, columns[::-1])
        return [np.broadcast_to(nearer, part.shape[:2]) for part in parts]

    labels = predict_tiles(image, Tiles(40, 40, overlap), distance, 1, np.uint8)
    inner = labels[:, overlap // 2 : length - overlap // 2]
    assert inner.min() >= overlap // 2 - 1


@pytest.mark.parametrize(
    'tile, overlap, message',
    [
        (0, 0, 'tile is 0'),
        ((32, -1), 0, 'tile is'),
        ((32,), 0, 'tile is'),
        ('32', 0, 'tile is'),
        (64.0, 0, 'tile is 64.0'),
        (32, 32, 'overlap is 32'),
        ((64, 32), 40, 'overlap is 40'),
        (32, -1, 'overlap is -1'),
        (32, 0.5, 'overlap is 0.5'),
    ],
)
def test_tiles_that_do_not_go_together(tile, overlap, message):
    with pytest.raises(SegformerPlusPlusError, match=message):
        Tiles.of(tile, overlap)


@pytest.mark.parametrize(
    'arguments, expected',
    [
        ((64, 8), (64, 64, 8)),
        (((64, 32), 8), (64, 32, 8)),
        (((64, 2048),), (64, 2048, 16)),
        ((1024,), (1024, 1024, 128)),
    ],
)
def test_one_number_is_a_square_and_the_overlap_follows(arguments, expected):
    assert Tiles.of(*arguments) == Tiles(*expected)


def test_labels_above_255_have_two_bytes():
    assert (label_dtype(256), label_dtype(257)) == (np.uint8, np.uint16)
