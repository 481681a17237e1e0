"""A legend names the classes of its picture, in the order of the labels, and nothing else."""

import numpy as np
import pytest

from segformer_plusplus.inference.legend import Legend

RNG = np.random.default_rng()
WHITE = [255, 255, 255]


def make(amount, words='class'):
    """A legend of different colours, none of which is that of paper or ink."""
    palette = RNG.permutation(200)[:amount, None] + np.array([10, 20, 30])
    return Legend([f'{words} {n}' for n in range(amount)], palette.astype(np.uint8)), palette


def strip_of(legend, labels, **options):
    strip = np.zeros((labels.shape[0], legend.width(*labels.shape), 3), np.uint8)
    legend.draw(strip, labels, **options)
    return strip


def rows_of(strip, classes, size=10):
    """(colour of the swatch in RGB, or None, and the ink beside it) of every row with ink."""
    row, swatch = round(1.5 * size), slice(round(0.6 * size), round(1.6 * size))
    rows = []
    top = min(row // 2, len(strip) - row * min(classes, len(strip) // row))
    for start in range(top, len(strip) - row + 1, row):
        band = strip[start : start + row]
        ink = band[:, round(1.8 * size) :]
        if (ink != 255).any():
            colour = band[row // 2, (swatch.start + swatch.stop) // 2, ::-1].tolist()
            rows.append((None if colour == WHITE else colour, ink.tobytes()))
    return rows


def labels_of(*found, shape=(240, 320)):
    labels = np.full(shape, found[-1])
    labels.ravel()[: len(found)] = RNG.permutation(found)
    return labels


def test_a_name_of_millions_of_letters_is_cut():
    legend = Legend(['x' * 2_000_000], np.full((1, 3), 9, np.uint8))
    assert strip_of(legend, np.ones((64, 64), int)).shape[1] < 20 * 10


def test_classes_of_a_picture_in_the_order_of_the_labels():
    legend, palette = make(12)
    found = sorted(RNG.choice(12, 5, replace=False).tolist())
    rows = rows_of(strip_of(legend, labels_of(*found)), 12)
    assert [colour for colour, _ in rows] == palette[found].tolist()
    alone = {n: rows_of(strip_of(legend, labels_of(n)), 12)[0][1] for n in range(12)}
    assert len(set(alone.values())) == 12
    assert [ink for _, ink in rows] == [alone[n] for n in found]


def test_more_classes_than_rows_and_labels_beyond_the_palette():
    legend, palette = make(30)
    order = RNG.permutation(30)
    labels = np.repeat(order, range(30))[:, None].repeat(10, 1)[:100]  # the first is nowhere
    labels[95:] = 255
    counts = np.bincount(labels[labels < 30], minlength=30)
    *named, (last, ink) = rows_of(strip_of(legend, labels), 30)  # 100 pixels: six rows of 15
    largest = sorted(np.argsort(-counts, kind='stable')[:5].tolist())
    assert [colour for colour, _ in named] == palette[largest].tolist() and last is None
    amount = np.count_nonzero(counts)
    for known in (amount, amount + 1):
        crowd = labels_of(*range(known), shape=(100, 10))
        assert (rows_of(strip_of(legend, crowd), 30)[-1][1] == ink) == (known == amount)


@pytest.mark.parametrize('shape', [(32, 32), (15, 2000), (2000, 15), (41, 999), (1200, 1600)])
@pytest.mark.parametrize('amount', [1, 2, 150])
@pytest.mark.parametrize('kind', [np.uint8, np.uint16, np.int64])
def test_pictures_of_all_sizes(shape, amount, kind):
    legend, palette = make(amount)
    labels = RNG.integers(0, amount + 1, shape, kind)
    strip = strip_of(legend, labels)
    assert strip.shape[1] > 0 and (strip[0] != 0).all()  # all of it is drawn
    size = max(10, round(min(shape) / 40))
    rows = rows_of(strip, amount, size)
    assert 1 <= len(rows) <= shape[0] // round(1.5 * size)
    colours = [colour for colour, _ in rows if colour]
    assert all(colour in palette.tolist() for colour in colours)
    if amount <= shape[0] // round(1.5 * size):
        assert colours == palette.tolist()


def test_where_not_even_one_row_fits_there_is_none():
    legend, _ = make(3)
    assert legend.width(14, 500) == 0
    legend.draw(np.zeros((14, 0, 3), np.uint8), labels_of(1, shape=(14, 500)))


def test_a_class_that_is_alone_is_label_1():
    legend, palette = make(1)
    assert rows_of(strip_of(legend, labels_of(0)), 1) == []
    ((colour, _),) = rows_of(strip_of(legend, labels_of(0, 1)), 1)
    assert colour == palette[0].tolist()


@pytest.mark.parametrize('amount', [255, 256, 300])
def test_as_many_classes_as_their_numbers_hold(amount):
    legend = Legend([f'class {n}' for n in range(amount)], np.full((amount, 3), 9, np.uint8))
    labels = labels_of(0, 99, 254).astype(np.uint8)
    assert len(rows_of(strip_of(legend, labels), amount)) == 3


def test_long_names_are_cut_and_the_width_is_that_of_all_names():
    long, _ = make(3, words='w' * 10_000)
    assert long.width(240, 320) < 200
    ordinary, _ = make(3)
    assert strip_of(ordinary, labels_of(0)).shape == strip_of(ordinary, labels_of(1, 2)).shape
    lines = Legend(['a\nb', 'a b', '\t'], np.full((3, 3), 9, np.uint8))
    first, second = rows_of(strip_of(lines, labels_of(0, 1, 2)), 3)
    assert first == second


def test_a_class_keeps_its_row_in_a_video():
    legend, _ = make(8)
    every = strip_of(legend, labels_of(*range(8)), steady=True)
    found = RNG.choice(8, 3, replace=False)
    some = strip_of(legend, labels_of(*found), steady=True)
    for n in range(8):
        rows = slice(7 + 15 * n, 7 + 15 * (n + 1))
        expected = every[rows] if n in found else np.full_like(every[rows], 255)
        np.testing.assert_array_equal(some[rows], expected)
