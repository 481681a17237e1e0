"""Every kind of input becomes the same pictures; what cannot be read says so when it is read."""

import cv2
import numpy as np
import pytest
from PIL import Image

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.inference import find_pictures
from segformer_plusplus.inference.sources import count_pictures, is_one_image


def random_image(height=24, width=32):
    return np.random.default_rng().integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_video(path, frames=5, size=(64, 48)):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 10.0, size)
    for index in range(frames):
        video.write(np.full((size[1], size[0], 3), 40 * (index % 6), np.uint8))
    video.release()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'in/deep').mkdir(parents=True)
    for name in ('b.png', 'a.JPG', 'deep/c.bmp'):
        cv2.imwrite(str(tmp_path / 'in' / name), random_image())
    (tmp_path / 'in/notes.txt').write_text('no image')
    (tmp_path / 'in/.hidden.png').write_text('no image')
    return tmp_path / 'in'


def test_the_same_image_in_every_form(tmp_path):
    image = random_image()
    cv2.imwrite(str(tmp_path / 'x.png'), image)
    rgb = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    inputs = [str(tmp_path / 'x.png'), tmp_path / 'x.png', image, rgb, rgb.convert('RGBA')]
    pictures = list(find_pictures([*inputs, image[..., 0]]))
    names = [picture.name for picture in pictures]
    assert names == ['x.png', 'x.png', 'array-2', 'image-3', 'image-4', 'array-5']
    *colour, grey = (picture.load() for picture in pictures)
    np.testing.assert_array_equal(colour, [image] * 5)
    np.testing.assert_array_equal(grey, image[..., [0, 0, 0]])
    (any_size,) = find_pictures(tmp_path / 'x.png', any_size=True)
    np.testing.assert_array_equal(any_size.load(), image)


def test_a_folder_is_read_to_any_depth_in_order(folder):
    assert [picture.name for picture in find_pictures(folder)] == ['a.JPG', 'b.png', 'deep/c.bmp']
    assert count_pictures([folder, random_image()]) == 4


def test_a_photo_is_turned_as_its_exif_says(tmp_path):
    image = Image.fromarray(random_image(16, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / 'x.jpg', exif=exif)
    for any_size in (False, True):
        (picture,) = find_pictures(tmp_path / 'x.jpg', any_size=any_size)
        assert picture.load().shape == (32, 16, 3)


def test_frames_of_a_video(tmp_path):
    write_video(tmp_path / 'v.avi')
    pictures = list(find_pictures(tmp_path / 'v.avi'))
    assert [picture.name for picture in pictures] == [f'v.avi/{n:06d}' for n in range(5)]
    means = [picture.load().mean() for picture in pictures]
    np.testing.assert_allclose(means, [0, 40, 80, 120, 160], atol=3)
    assert all(picture.video == tmp_path / 'v.avi' for picture in pictures)
    assert count_pictures(tmp_path / 'v.avi') == 5


@pytest.mark.parametrize('length', [None, 0.5, 0])
def test_a_video_that_was_cut_short(tmp_path, length):
    write_video(tmp_path / 'v.avi', frames=60)
    data = (tmp_path / 'v.avi').read_bytes()
    (tmp_path / 'v.avi').write_bytes(
        b'no video' if length is None else data[: int(len(data) * length)]
    )
    *frames, last = find_pictures(tmp_path / 'v.avi')
    assert len(frames) < 60 if length else not frames
    with pytest.raises(SegformerPlusPlusError, match=r'v\.avi (ends after|cannot be read)'):
        last.load()
    assert length or count_pictures(tmp_path / 'v.avi') is None


@pytest.mark.parametrize('any_size', [False, True])
@pytest.mark.parametrize('content', [b'', b'no image', 'half'])
def test_a_damaged_image_is_named_when_it_is_read(tmp_path, content, any_size):
    if content == 'half':
        cv2.imwrite(str(tmp_path / 'x.png'), random_image(200, 200))
        content = (tmp_path / 'x.png').read_bytes()[:50_000]
    (tmp_path / 'x.png').write_bytes(content)
    (picture,) = find_pictures(tmp_path / 'x.png', any_size=any_size)
    with pytest.raises(SegformerPlusPlusError, match=r'x\.png cannot be read'):
        picture.load()


def test_an_image_above_pillows_limit(tmp_path, monkeypatch):
    image = random_image()
    cv2.imwrite(str(tmp_path / 'x.png'), image)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    (picture,) = find_pictures(tmp_path / 'x.png')
    with pytest.raises(SegformerPlusPlusError, match=r'x\.png has more pixels.*tiles'):
        picture.load()
    (picture,) = find_pictures(tmp_path / 'x.png', any_size=True)
    np.testing.assert_array_equal(picture.load(), image)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    'array', [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_that_are_no_images(array):
    (picture,) = find_pictures(array)
    with pytest.raises(SegformerPlusPlusError, match='array-0 is'):
        picture.load()


def test_what_is_no_input(tmp_path):
    with pytest.raises(SegformerPlusPlusError, match='input not found: .*nowhere'):
        next(find_pictures([random_image(), tmp_path / 'nowhere']))
    with pytest.raises(SegformerPlusPlusError, match='input 0 is a int'):
        next(find_pictures(3))
    with pytest.raises(SegformerPlusPlusError, match='holds no image or video'):
        next(find_pictures(tmp_path))


def test_one_image_or_more(tmp_path):
    assert is_one_image(random_image()) and is_one_image('x.png') and is_one_image('no-suffix')
    assert not is_one_image([random_image()])
    assert not is_one_image(tmp_path) and not is_one_image('x.MP4')
