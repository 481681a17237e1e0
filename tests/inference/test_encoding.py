"""Videos are what browsers play, with the sound of their source; without PyAV a line says so."""

import struct
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.inference import encoding, find_pictures
from segformer_plusplus.inference.video import VideoFile

from .test_sources import write_video

RNG = np.random.default_rng()
NTSC = Fraction(30000, 1001)


@pytest.fixture
def lines(monkeypatch):
    """What is said to the user."""
    said = []
    monkeypatch.setattr(encoding, 'print_log', lambda text, **_: said.append(text))
    encoding._has_h264.cache_clear()
    yield said
    encoding._has_h264.cache_clear()


@pytest.fixture
def av():
    library = pytest.importorskip('av', reason='the extra video is not installed')
    if 'libx264' not in library.codecs_available:
        pytest.skip('this PyAV has no x264')
    return library


def record(av, path, codecs=(), frames=45, rate=NTSC, late=0, layout='stereo', hertz=48000):
    """Makes a video with noise as its sound; every frame is of one grey."""
    with av.open(str(path), 'w') as container:
        pictures = container.add_stream('libvpx' if path.suffix == '.webm' else 'libx264', rate)
        pictures.width, pictures.height = 64, 48
        tracks = [container.add_stream(codec, hertz, layout=layout) for codec in codecs]
        for index in range(frames):
            grey = np.full((48, 64, 3), 5 * (index % 50), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format='bgr24')
            frame.pts = index + late
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
        for track in tracks:
            channels = 1 if layout == 'mono' else 2
            noise = RNG.integers(-3000, 3000, (1, channels * int(hertz * frames / rate)), np.int16)
            sound = av.AudioFrame.from_ndarray(noise, format='s16', layout=layout)
            sound.sample_rate, sound.pts = hertz, 0
            container.mux(track.encode(sound))
            container.mux(track.encode(None))


def paint(path, source):
    with VideoFile(path, like=source) as video:
        for picture in find_pictures(source):
            video.add(picture.load())


def samples(av, path, track=0):
    """Sound (channels, samples) of a track, as floats."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler('fltp')
        frames = [each for f in container.decode(audio=track) for each in resampler.resample(f)]
    return np.concatenate([frame.to_ndarray() for frame in frames], axis=1)


@pytest.mark.parametrize('rate', [NTSC, Fraction(25), Fraction(24000, 1001), Fraction(15, 2)])
def test_what_browsers_play(av, tmp_path, lines, rate):
    record(av, tmp_path / 'a.mp4', ['aac'], frames=30, rate=rate)
    paint(tmp_path / 'out.mp4', tmp_path / 'a.mp4')
    with av.open(str(tmp_path / 'out.mp4')) as container:
        (pictures,), (sound,) = container.streams.video, container.streams.audio
        assert (pictures.codec_context.name, pictures.pix_fmt) == ('h264', 'yuv420p')
        assert (pictures.frames, pictures.average_rate) == (30, rate)
        assert sound.codec_context.name == 'aac' and not lines
        means = [frame.to_ndarray(format='bgr24').mean() for frame in container.decode(video=0)]
    given = [picture.load().mean() for picture in find_pictures(tmp_path / 'a.mp4')]
    darker = np.subtract(given, means)  # conversions round down; the next frame is 5 away
    assert (darker > -1).all() and (darker < 4.5).all()
    data = (tmp_path / 'out.mp4').read_bytes()
    assert data.index(b'moov') < data.index(b'mdat')


@pytest.mark.parametrize('codec, suffix', [('aac', '.mp4'), ('mp3', '.mp4'), ('ac3', '.mp4'),
                                           ('aac', '.mkv'), ('libopus', '.webm')])  # fmt: skip
def test_the_sound_is_that_of_the_source(av, tmp_path, lines, codec, suffix):
    source = tmp_path / f'a{suffix}'
    record(av, source, [codec])
    paint(tmp_path / 'out.mp4', source)
    before, after = samples(av, source), samples(av, tmp_path / 'out.mp4')
    # Matroska and WebM count in milliseconds, so that what is left out at the start is others, and
    # up to PyAV 17 the 1024 samples before it are read from Matroska, too
    shift = min(
        range(-1072, 49),
        key=lambda k: abs(before[:, 1999:2999] - after[:, 1999 + k : 2999 + k]).sum(),
    )
    assert shift == 0 or suffix != '.mp4'
    length = min(before.shape[1], after.shape[1]) - 200
    assert length > 1.4 * 48000 and not lines
    parts = before[:, 1200:length], after[:, 1200 + shift : length + shift]
    np.testing.assert_array_equal(*parts)


@pytest.mark.parametrize('codec, layout, hertz, expected', [
    ('pcm_s16le', 'mono', 22050, 22050), ('flac', 'stereo', 44100, 44100),
    ('pcm_s16le', 'stereo', 192000, 48000),
])  # fmt: skip
def test_sound_that_mp4_does_not_hold_becomes_aac(
    av, tmp_path, lines, codec, layout, hertz, expected
):
    record(av, tmp_path / 'a.mkv', [codec], layout=layout, hertz=hertz)
    paint(tmp_path / 'out.mp4', tmp_path / 'a.mkv')
    with av.open(str(tmp_path / 'out.mp4')) as container:
        (track,) = container.streams.audio
        assert (track.codec_context.name, track.rate) == ('aac', expected)
        assert track.layout.name == layout and not lines
    sound = samples(av, tmp_path / 'out.mp4')
    assert sound.shape[1] == pytest.approx(expected * 45 / NTSC, abs=3000)
    assert 0.02 < sound.std() < 0.08  # of the noise 0.053


def test_several_tracks_and_none(av, tmp_path, lines):
    record(av, tmp_path / 'a.mkv', ['aac', 'mp3', 'flac'])
    record(av, tmp_path / 'silent.mp4')
    paint(tmp_path / 'out.mp4', tmp_path / 'a.mkv')
    paint(tmp_path / 'none.mp4', tmp_path / 'silent.mp4')
    with av.open(str(tmp_path / 'out.mp4')) as container:
        assert [track.codec_context.codec.canonical_name for track in container.streams.audio] == [
            'aac', 'mp3', 'aac',
        ]  # fmt: skip
    with av.open(str(tmp_path / 'none.mp4')) as container:
        assert not container.streams.audio and not lines


def test_pictures_that_begin_later_than_the_sound(av, tmp_path, lines):
    record(av, tmp_path / 'a.mp4', ['aac'], late=15)
    paint(tmp_path / 'out.mp4', tmp_path / 'a.mp4')
    before, after = samples(av, tmp_path / 'a.mp4'), samples(av, tmp_path / 'out.mp4')
    late = round(15 / NTSC * 48000)
    shifts = range(late - 48, late + 49)  # within a thousandth of a second
    nearest = min(
        shifts, key=lambda k: abs(before[:, 2000 + k : 9000 + k] - after[:, 2000:9000]).sum()
    )
    np.testing.assert_array_equal(before[:, 2000 + nearest : 9000 + nearest], after[:, 2000:9000])


def test_sound_that_cannot_be_read_costs_no_picture(av, tmp_path, lines):
    record(av, tmp_path / 'a.mkv', ['flac'], frames=300)
    data = (tmp_path / 'a.mkv').read_bytes()
    (tmp_path / 'strange.mkv').write_bytes(data.replace(b'A_FLAC', b'A_QLAC'))
    # sound of which no packet after the first half is one
    with av.open(str(tmp_path / 'a.mkv')) as container:
        begin = bytes(next(container.demux(audio=0)))[:3]  # noise has two of them by chance
    start = data.index(begin, len(data) // 2)
    (tmp_path / 'torn.mkv').write_bytes(data[:start] + bytes(64) + data[start + 64 :])
    for name, words in (('strange', 'is left out: '), ('torn', 'is left out after ')):
        paint(tmp_path / 'out.mp4', tmp_path / f'{name}.mkv')
        (line,) = lines
        assert line.startswith(f'the sound of the video {tmp_path}/{name}.mkv {words}')
        lines.clear()
        with av.open(str(tmp_path / 'out.mp4')) as container:
            assert container.streams.video[0].frames == 300
            assert len(container.streams.audio) == (name == 'torn')
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'a.mkv', 'out.mp4', 'strange.mkv', 'torn.mkv',
    ]  # fmt: skip


def test_a_video_that_is_turned_is_turned_once(av, tmp_path):
    record(av, tmp_path / 'a.mp4', frames=3)
    data = (tmp_path / 'a.mp4').read_bytes()
    plain = struct.pack('>9i', 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack('>9i', 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    at = data.index(plain, data.index(b'tkhd'))
    (tmp_path / 'a.mp4').write_bytes(data[:at] + turned + data[at + len(plain) :])
    paint(tmp_path / 'out.mp4', tmp_path / 'a.mp4')
    with av.open(str(tmp_path / 'out.mp4')) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height, frame.rotation) == (48, 64, 0)


def test_colours_are_those_that_were_given(av, tmp_path):
    record(av, tmp_path / 'a.mp4', frames=1)
    colours = RNG.integers(0, 256, (4, 3), np.uint8)
    with VideoFile(tmp_path / 'out.mp4', like=tmp_path / 'a.mp4') as video:
        video.add(colours.repeat(64, 0)[None].repeat(64, 0))
    _, shown = cv2.VideoCapture(str(tmp_path / 'out.mp4')).read()
    np.testing.assert_allclose(shown[32, 32::64], colours, atol=6)
    with av.open(str(tmp_path / 'out.mp4')) as container:
        context = next(container.decode(video=0))
        assert (context.colorspace, context.color_range) == (6, 1)  # said, so that nobody guesses


def test_a_full_disk_is_no_broken_sound(av, tmp_path, lines, monkeypatch):
    record(av, tmp_path / 'a.mp4', ['aac'])
    (tmp_path / 'out.mp4').write_bytes(b'old')

    def full(self, until):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(encoding._Sound, 'write', full)
    with pytest.raises(OSError, match='No space left on device.*out.mp4'):
        paint(tmp_path / 'out.mp4', tmp_path / 'a.mp4')
    assert (tmp_path / 'out.mp4').read_bytes() == b'old' and not lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.mp4', 'out.mp4']


def test_sides_that_the_codec_does_not_have(av, tmp_path, lines):
    record(av, tmp_path / 'a.mp4')
    with (
        pytest.raises(SegformerPlusPlusError, match='16386x2 pixels can be written: H.264 has'),
        VideoFile(tmp_path / 'out.mp4', like=tmp_path / 'a.mp4') as video,
    ):
        video.add(np.zeros((2, 16386, 3), np.uint8))
    assert not lines and [path.name for path in tmp_path.iterdir()] == ['a.mp4']


def test_without_pyav_opencv_writes_and_one_line_says_what(tmp_path, lines, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    write_video(tmp_path / 'a.avi')
    for name in ('x.mp4', 'y.mp4'):
        paint(tmp_path / name, tmp_path / 'a.avi')
        video = cv2.VideoCapture(str(tmp_path / name))
        assert sum(video.read()[0] for _ in range(9)) == 5 and video.get(cv2.CAP_PROP_FPS) == 10
    (line,) = lines
    assert 'browsers do not play, and without sound: H.264 needs av' in line
    assert line.endswith("pip install 'segformer-plusplus[video]'")
