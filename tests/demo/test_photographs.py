"""What visitors give is read by the model's rule, scaled down, or refused in one sentence."""

import re

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from segformer_plusplus.demo.photographs import read_photograph
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.inference.reader import Reader

ORIENTATION = 274
LARGE = 10**6


def smooth(height: int, width: int) -> np.ndarray:
    """Random colours that change slowly, so that formats with a loss keep them nearly."""
    small = np.random.default_rng().integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def read(path, max_pixels=LARGE, reader=None):
    return read_photograph(reader or Reader(), path, path.name, max_pixels)


@pytest.mark.parametrize(
    'name, mode, said',
    [
        ('a.png', 'RGB', ()),
        ('a.png', 'L', ()),
        ('a.png', 'P', ()),
        ('a.png', 'RGBA', ('its transparency is dropped',)),
        ('a.png', 'I;16', ('the upper 8 of its 16 bits are kept',)),
        ('a.jpg', 'CMYK', ()),
        ('a.gif', 'RGB', ('only the first of its frames or pages is read',)),
    ],
)
def test_every_kind_of_pixels_is_read_by_the_one_rule(tmp_path, name, mode, said):
    path = tmp_path / name
    colours = Image.fromarray(smooth(30, 40))
    deep = Image.fromarray(np.asarray(colours.convert('L')).astype(np.uint16) << 8)
    image = deep if mode == 'I;16' else colours.convert(mode)
    more = dict(save_all=True, append_images=[colours.rotate(90)]) if name == 'a.gif' else {}
    image.save(path, **more)
    for _ in range(2):  # also what the reader's log says only once
        found = read(path)
        np.testing.assert_array_equal(found.image, Reader().file(path)[..., ::-1])
        assert found.notes == said


@pytest.mark.parametrize('name', ['a.jpg', 'a.png'])
@pytest.mark.parametrize('orientation', [1, 6])
@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_a_large_one_is_scaled_down_and_says_so(tmp_path, name, orientation, backend):
    path = tmp_path / name
    pixels = smooth(300, 400)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    steps = [dict(type='LoadImageFromFile', imdecode_backend=backend)]
    reader = Reader(Config(dict(test_dataloader=dict(dataset=dict(pipeline=steps)))))
    found = read(path, 3000, reader)
    turned = orientation == 6
    expected = np.rot90(pixels, -1) if turned else pixels
    height, width = (63, 47) if turned else (47, 63)
    assert found.image.shape == (height, width, 3) and height * width <= 3000
    said = 'scaled down from 300 x 400 to 47 x 63' if turned else '400 x 300 to 63 x 47'
    (note,) = found.notes
    assert said in note and note.endswith('; --max-pixels 120000 takes it whole')
    small = cv2.resize(
        np.ascontiguousarray(expected), (width, height), interpolation=cv2.INTER_AREA
    )
    assert np.abs(found.image.astype(int) - small).mean() < 3
    assert read(path, 120_000, reader).notes == ()


def test_a_loader_of_ones_own_reads_large_ones_too(tmp_path):
    path = tmp_path / 'a.jpg'
    Image.fromarray(smooth(300, 400)).save(path)
    steps = [dict(type='LoadImageFromFile'), dict(type='mmcv.LoadImageFromFile')]
    reader = Reader(pipeline=steps)
    assert reader.loading is None
    assert read(path, 3000, reader).image.shape == (47, 63, 3)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    'name, spoil, said',
    [
        ('text.png', lambda path: path.write_text('no image'), 'it is no image'),
        ('empty.jpg', lambda path: path.write_bytes(b''), 'the file is empty'),
        ('half.png', half, 'truncated'),
        ('half.jpg', half, 'truncated'),
        ('bomb.ppm', lambda path: path.write_bytes(b'P6 99999 99999 255\n'), 'make it smaller'),
        ('short.ppm', lambda path: path.write_bytes(b'P6 9999 9999 255\n'), 'truncated'),
        ('drawing.svg', lambda path: path.write_text('<svg/>'), 'it is no image'),
    ],
)
@pytest.mark.parametrize('max_pixels', [3000, LARGE])
def test_what_is_no_image_is_refused_in_one_sentence(tmp_path, name, spoil, said, max_pixels):
    path = tmp_path / name
    if spoil is half:
        Image.fromarray(np.random.default_rng().integers(0, 256, (300, 400, 3), np.uint8)).save(
            path
        )
    spoil(path)
    with pytest.raises(
        SegformerPlusPlusError, match=rf'^image {re.escape(name)} .*{said}'
    ) as error:
        read(path, max_pixels)
    assert str(tmp_path) not in str(error.value) and '\n' not in str(error.value)


def test_a_bomb_is_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / 'bomb.png'
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    Image.fromarray(smooth(50, 60)).save(path)
    monkeypatch.setattr(Image.Image, 'load', lambda self: pytest.fail('decoded'))
    with pytest.raises(SegformerPlusPlusError, match='too many pixels to be decoded'):
        read(path, 100)


@pytest.mark.parametrize('size', [(1, 4000), (4000, 1)])
def test_no_side_gets_shorter_than_a_pixel(tmp_path, size):
    path = tmp_path / 'line.png'
    Image.new('RGB', size).save(path)
    height, width, _ = read(path, 10).image.shape
    assert min(height, width) == 1
