"""Every kind of input becomes the same pictures; what cannot be read says so when it is read."""

import os
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.inference import find_pictures, sources
from segformer_plusplus.inference.sources import count_pictures, is_one_image
from segformer_plusplus.inference.video import VideoFile, is_cut_off


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
    content = (tmp_path / 'x.png').read_bytes()
    pictures = list(find_pictures([*inputs, content, image[..., 0]]))
    names = [picture.name for picture in pictures]
    assert names == ['x.png', 'x.png', 'array-2', 'image-3', 'image-4', 'bytes-5', 'array-6']
    *colour, grey = (picture.load() for picture in pictures)
    np.testing.assert_array_equal(colour, [image] * 6)
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


UNKNOWN = b'\x01' + b'\xff' * 7  # the size of a Matroska element that a recorder leaves open


@pytest.mark.parametrize('duration', ['longer', 'shorter', 'unknown'])
def test_a_whole_video_whose_container_counts_other_frames(tmp_path, duration):
    """Sound that goes on, a variable rate, an edit list, a recording without a length."""
    write_video(tmp_path / 'v.mkv', frames=20)
    data = bytearray((tmp_path / 'v.mkv').read_bytes())
    at = data.index(b'\x44\x89\x88')
    milliseconds = dict(longer=9000.0, shorter=500.0, unknown=0.0)[duration]
    data[at + 3 : at + 11] = struct.pack('>d', milliseconds)
    if duration == 'unknown':
        data[at : at + 3] = b'\xec\x40\x08'  # a void element
        size = data.index(b'\x18\x53\x80\x67') + 4
        data[size : size + 8] = UNKNOWN
    (tmp_path / 'v.mkv').write_bytes(data)
    pictures = list(find_pictures(tmp_path / 'v.mkv'))
    assert len([picture.load() for picture in pictures]) == 20
    counted = count_pictures(tmp_path / 'v.mkv')
    assert counted is None if duration == 'unknown' else counted != 20


@pytest.mark.parametrize('count', [-(2**57), -1, 0, 2**62])
def test_a_count_that_is_none(tmp_path, monkeypatch, count):
    write_video(tmp_path / 'v.avi')
    monkeypatch.setattr(sources.mmcv.VideoReader, 'frame_cnt', count)
    assert count_pictures([random_image(), tmp_path / 'v.avi']) is None


@pytest.mark.parametrize('share', [0.5, 0.9])
@pytest.mark.parametrize('suffix', ['.avi', '.mkv'])
def test_a_file_that_is_shorter_than_its_container_says(tmp_path, suffix, share):
    path = tmp_path / f'v{suffix}'
    write_video(path, frames=60)
    assert not is_cut_off(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert is_cut_off(path)
    *frames, last = find_pictures(path)
    assert 0 < len([frame.load() for frame in frames]) < 60
    with pytest.raises(
        SegformerPlusPlusError, match=f'ends after {len(frames)} frames: .* cut off'
    ):
        last.load()


def box(kind, content, size=None):
    return struct.pack('>I', 8 + len(content) if size is None else size) + kind + content


FTYP = box(b'ftyp', b'isom' + bytes(8))


@pytest.mark.parametrize(
    ('content', 'cut'),
    [
        (FTYP + box(b'mdat', bytes(100)), False),
        (FTYP + box(b'mdat', bytes(100), 109), True),
        (FTYP + box(b'mdat', bytes(100), 0), False),  # as long as the file
        (FTYP + box(b'mdat', struct.pack('>Q', 116) + bytes(100), 1), False),
        (FTYP + box(b'mdat', struct.pack('>Q', 2**40) + bytes(100), 1), True),
        (FTYP + box(b'mdat', bytes(100), 3), False),  # damaged: nobody knows
        (FTYP + box(b'mdat', struct.pack('>Q', 0), 1), False),
        (FTYP + box(b'moov', bytes(9)) + box(b'mdat', bytes(9)) + bytes(5), False),
        (b'RIFF' + struct.pack('<I', 100) + bytes(100), False),
        (b'RIFF' + struct.pack('<I', 101) + bytes(100), True),
        (b'RIFF' + b'\xff' * 4 + bytes(100), False),
        (b'\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67' + UNKNOWN + bytes(9), False),
        (b'\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67\x89' + bytes(9), False),
        (b'\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67\x8a' + bytes(9), True),
        (b'\x1a\x45\xdf\xa3', False),
        (b'', False),
        (b'no video', False),
    ],
)
def test_what_a_container_says_of_its_length(tmp_path, content, cut):
    (tmp_path / 'v').write_bytes(content)
    assert is_cut_off(tmp_path / 'v') == cut


@pytest.mark.parametrize('size', [(1, 1), (63, 47), (64, 1), (3, 5), (64, 48)])
def test_frames_of_any_size_are_written_whole(tmp_path, size):
    """The codec takes even sides only: a row or column is added, none is cut off."""
    write_video(tmp_path / 'v.avi')
    with VideoFile(tmp_path / 'out/v.mp4', like=tmp_path / 'v.avi') as video:
        for value in (10, 200, 90):
            video.add(np.full((size[1], size[0], 3), value, np.uint8))
    found = sources.mmcv.VideoReader(str(tmp_path / 'out/v.mp4'))
    assert found.resolution == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    means = [found.vcap.read()[1].mean() for _ in range(found.frame_cnt)]
    np.testing.assert_allclose(means, [10, 200, 90], atol=4)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['v.mp4']


@pytest.mark.parametrize(
    'told, written',
    [(0, 25), (-1, 25), (np.nan, 25), (np.inf, 25), (90000, 25), (0.001, 25), (12.5, 12.5)],
)
def test_a_rate_that_no_video_has(tmp_path, monkeypatch, told, written):
    write_video(tmp_path / 'v.avi')
    with monkeypatch.context() as patch:
        patch.setattr(sources.mmcv.VideoReader, 'fps', told)
        video = VideoFile(tmp_path / 'v.mp4', like=tmp_path / 'v.avi')
    with video:
        video.add(random_image())
    assert sources.mmcv.VideoReader(str(tmp_path / 'v.mp4')).fps == pytest.approx(written)


def test_what_a_folder_holds_besides_is_counted_and_named(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(sources, 'print_log', lambda text, **_: lines.append(text))
    folder = tmp_path / 'in'
    (folder / 'sub/y.jpg').mkdir(parents=True)
    Image.fromarray(random_image()).save(folder / 'a.gif')
    Image.fromarray(random_image()).save(folder / 'sub/y.jpg/b.AVIF', 'PNG')
    for name in ('n.txt', 'sub/m.TXT', '.hidden.png', 'README'):
        (folder / name).touch()
    (folder / 'gone.png').symlink_to('nowhere')
    (folder / 'other').symlink_to(tmp_path)
    os.mkfifo(folder / 'pipe.png')
    pictures = list(find_pictures(folder))
    assert [picture.name for picture in pictures] == ['a.gif', 'sub/y.jpg/b.AVIF']
    assert all(picture.load().shape == (24, 32, 3) for picture in pictures)
    assert lines == [
        f'folder {folder}: skipped 2 .txt (n.txt, sub/m.TXT), 1 broken link (gone.png), '
        '1 file without a suffix (README), 1 folder named like a file (sub/y.jpg), '
        '1 hidden file (.hidden.png), 1 link to a folder (other), 1 pipe or device (pipe.png)'
    ]
    assert count_pictures(folder) == 2 and len(lines) == 1
    for index in range(9):
        (folder / f'{index}.raw').touch()
    list(find_pictures(folder))
    assert '9 .raw (0.raw, 1.raw, 2.raw, 3.raw, 4.raw, and 4 more)' in lines[1]


def test_a_folder_of_other_files_says_what_it_holds(tmp_path):
    (tmp_path / 'a.psd').touch()
    with pytest.raises(
        SegformerPlusPlusError, match=r'holds no image .*; it holds 1 \.psd \(a\.psd'
    ):
        next(find_pictures(tmp_path))
    (tmp_path / 'x.png').symlink_to('nowhere')
    with pytest.raises(SegformerPlusPlusError, match=r'not found: .*x\.png \(a broken link\)'):
        next(find_pictures(tmp_path / 'x.png'))


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
    with pytest.raises(SegformerPlusPlusError, match="input '' is no path"):
        next(find_pictures(['']))  # of a shell's empty variable, and not the folder we are in
    with pytest.raises(SegformerPlusPlusError, match='input 0 is a int'):
        next(find_pictures(3))
    with pytest.raises(SegformerPlusPlusError, match='holds no image or video'):
        next(find_pictures(tmp_path))


def test_one_image_or_more(tmp_path):
    assert is_one_image(random_image()) and is_one_image('x.png') and is_one_image('no-suffix')
    assert is_one_image(b'bytes')
    assert not is_one_image([random_image()])
    assert not is_one_image(tmp_path) and not is_one_image('x.MP4')
