"""One rule for every way in: what mmcv's loader of the same config gives, or a named refusal."""

import ast
import re
import struct
from io import BytesIO
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from PIL import EpsImagePlugin, Image, ImageOps

import segformer_plusplus
from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.demo.photographs import read_photograph
from segformer_plusplus.inference.merge_maps import turned
from segformer_plusplus.inference.reader import Reader, visible
from segformer_plusplus.inference.sources import find_pictures
from segformer_plusplus.loading import images
from segformer_plusplus.loading.images import CheckedLoadImageFromFile

from .tiny import SEGMENTATION, write_model

RAMP = np.arange(0x10000, dtype=np.uint16).reshape(256, 256)
RGB = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
ALPHA = Image.fromarray(np.arange(108, dtype=np.uint8).reshape(9, 12) * 2)


def coloured(mode):
    image = Image.fromarray(RGB)
    if mode in ('RGBA', 'LA'):
        image = image.convert(mode[:-1])
        image.putalpha(ALPHA)
        return image
    return image.quantize(8) if mode == 'P' else image.convert(mode)


def saved(mode, suffix, **options):
    return lambda path: coloured(mode).save(path, suffix, **options)


def several(suffix, **options):
    other = Image.fromarray(255 - RGB)
    return lambda path: coloured('RGB').save(
        path, suffix, save_all=True, append_images=[other], **options
    )


TRANSPARENCY, FRAMES, BITS = 'its transparency', 'only the first of its', 'the upper 8 of its 16'
FILES = {
    'RGB': (saved('RGB', 'PNG'), None),
    'L': (saved('L', 'PNG'), None),
    '1': (saved('1', 'PNG'), None),
    'P': (saved('P', 'PNG'), None),
    'P, transparent': (saved('P', 'PNG', transparency=2), TRANSPARENCY),
    'RGB, transparent': (saved('RGB', 'PNG', transparency=(1, 2, 3)), TRANSPARENCY),
    'RGBA': (saved('RGBA', 'PNG'), TRANSPARENCY),
    'LA': (saved('LA', 'PNG'), TRANSPARENCY),
    'CMYK': (saved('CMYK', 'TIFF'), None),
    'YCbCr': (saved('YCbCr', 'TIFF'), None),
    'LAB': (lambda path: Image.frombytes('LAB', (12, 9), RGB.tobytes()).save(path, 'TIFF'), None),
    'GIF': (several('GIF'), FRAMES),
    'APNG': (several('PNG'), FRAMES),
    'WebP': (several('WEBP', lossless=True), FRAMES),
    'TIFF of two pages': (several('TIFF'), FRAMES),
    'RGB of 16 bits': (lambda path: cv2.imwrite(str(path), np.dstack([RAMP] * 3)), BITS),
}


def reader(**options):
    step = dict(type='CheckedLoadImageFromFile', **options)
    return reader_of(step)


def reader_of(*steps, scope='mmengine'):
    loader = dict(dataset=dict(pipeline=list(steps)))
    return Reader(Config(dict(default_scope=scope, test_dataloader=loader)))


def ways(reading, path):
    """What each way in makes of a file."""
    yield reading.file(path)
    yield reading.file(path, any_size=True)
    (picture,) = find_pictures(str(path), reader=reading)
    yield picture.load()
    yield reading.content(path.read_bytes(), str(path))
    yield reading.content(path.read_bytes(), str(path), any_size=True)


@pytest.fixture
def said(monkeypatch):
    messages = []
    monkeypatch.setattr(images, 'print_log', lambda text, **_: messages.append(text))
    return messages


@pytest.mark.parametrize('color_type', ['color', 'grayscale', 'unchanged'])
@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('name', FILES)
def test_what_mmcv_gives(tmp_path, said, name, backend, color_type):
    write, dropped = FILES[name]
    path = tmp_path / 'x.png'
    write(path)
    if name == 'YCbCr':
        pytest.importorskip('PIL', minversion='13', reason='Pillow did not read its own file')
    if name == 'GIF' and backend == 'cv2' and not cv2.haveImageReader(str(path)):
        pytest.skip('this OpenCV reads no GIF')
    plain = LoadImageFromFile(imdecode_backend=backend, color_type=color_type)
    expected = plain.transform({'img_path': str(path)})['img']
    options = dict(imdecode_backend=backend, color_type=color_type)
    results = CheckedLoadImageFromFile(**options).transform({'img_path': str(path)})
    np.testing.assert_array_equal(results['img'], expected)
    assert results['img'].dtype == expected.dtype
    assert results['img_shape'] == results['ori_shape'] == expected.shape[:2]
    said.clear()
    reading = reader(**options)
    for image in ways(reading, path):
        np.testing.assert_array_equal(image, expected)
        assert image.dtype == expected.dtype
    dropped = dropped if color_type != 'unchanged' or dropped == FRAMES else None
    assert [text for text in said if dropped] == said  # nothing is said where nothing is dropped
    assert len(said) == bool(dropped) and all(f'{path}: {dropped}' in text for text in said)
    if backend == 'pillow':
        np.testing.assert_array_equal(reading.picture(Image.open(path), 'image-0'), expected)
    as_float = reader(to_float32=True, **options).file(path)
    np.testing.assert_array_equal(as_float, expected)
    assert as_float.dtype == np.float32


@pytest.mark.parametrize('name', ['RGB', 'L', '1', 'P', 'P, transparent', 'RGBA', 'LA'])
@pytest.mark.parametrize('color_type', ['color', 'unchanged'])
def test_an_image_of_pillow_s_is_what_opencv_makes_of_the_file(tmp_path, name, color_type):
    path = tmp_path / 'x.png'
    FILES[name][0](path)
    reading = reader(imdecode_backend='cv2', color_type=color_type)
    np.testing.assert_array_equal(reading.picture(Image.open(path), 'x'), reading.file(path))


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('suffix', ['.png', '.tif', '.pgm'])
def test_16_bits_of_grey(tmp_path, said, suffix, backend):
    """As OpenCV: all 65536 values, where Pillow makes all above 255 white."""
    path = tmp_path / f'x{suffix}'
    Image.fromarray(RAMP).save(path)
    upper = (RAMP >> 8).astype(np.uint8)
    np.testing.assert_array_equal(mmcv.imread(path), upper[..., None].repeat(3, axis=2))
    for color_type, expected in (
        ('color', upper[..., None].repeat(3, axis=2)),
        ('grayscale', upper),
        ('unchanged', RAMP),
    ):
        said.clear()
        reading = reader(color_type=color_type, imdecode_backend=backend)
        for image in (*ways(reading, path), reading.picture(Image.open(path), 'x')):
            np.testing.assert_array_equal(image, expected)
        assert len(said) == (color_type != 'unchanged') and all(BITS in text for text in said)


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_16_bits_with_the_large_byte_first(tmp_path, backend):
    path = tmp_path / 'x.tif'
    Image.fromarray(RAMP.astype('>u2')).save(path)
    assert Image.open(path).mode == 'I;16B'
    for color_type, expected in (('grayscale', RAMP >> 8), ('unchanged', RAMP)):
        reading = reader(color_type=color_type, imdecode_backend=backend)
        for image in (*ways(reading, path), reading.picture(Image.open(path), 'x')):
            np.testing.assert_array_equal(image, expected)
            assert image.dtype.isnative


def test_12_bits_of_grey(tmp_path):
    """Pillow gives their numbers as they are, of which the upper 8 of 16 bits are nearly black."""
    numbers = np.linspace(0, 4095, 64).astype('>u2')
    bits = np.unpackbits(numbers.view(np.uint8).reshape(64, 2), axis=1)[:, 4:]
    data = np.packbits(bits).tobytes()
    tags = [256, 64], [257, 1], [258, 12], [259, 1], [262, 1], [273, 8], [278, 1], [279, len(data)]
    entries = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags)
    head = b'II*\0' + struct.pack('<I', 8 + len(data)) + data + struct.pack('<H', len(tags))
    path = tmp_path / 'x.tif'
    path.write_bytes(head + entries + bytes(4))
    for image in (*ways(Reader(), path), Reader().picture(Image.open(path), 'x')):
        np.testing.assert_array_equal(image[0, :, 0], numbers >> 4)


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('suffix', ['.tif', '.pfm'])
@pytest.mark.parametrize('kind', [np.float32, np.int32])
def test_numbers_that_are_no_colours(tmp_path, kind, suffix, backend):
    if (kind, suffix) == (np.int32, '.pfm'):
        pytest.skip('it holds floats alone')
    path = tmp_path / f'x{suffix}'
    numbers = (np.linspace(0, 1, 48).reshape(6, 8) * (1 if kind is np.float32 else 1e6)).astype(
        kind
    )
    Image.fromarray(numbers).save(path)
    mode = 'F' if kind is np.float32 else 'I'
    for color_type in ('color', 'grayscale', 'color_ignore_orientation'):
        reading = reader(imdecode_backend=backend, color_type=color_type)
        for read in (
            lambda reading: reading.file(path),
            lambda reading: reading.file(path, any_size=True),
            lambda reading: reading.picture(Image.open(path), 'image-0'),
        ):
            with pytest.raises(
                SegformerPlusPlusError, match=rf"image .* has pixels of kind '{mode}'"
            ):
                read(reading)
    reading = reader(imdecode_backend=backend, color_type='unchanged')
    for image in (*ways(reading, path), reading.picture(Image.open(path), 'x')):
        np.testing.assert_array_equal(image, numbers)


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_signed_heights(tmp_path, backend):
    """16 bits with a sign, as elevations have them, are no colours either."""
    path = tmp_path / 'x.tif'
    cv2.imwrite(str(path), np.arange(-50, 50, dtype=np.int16).reshape(10, 10))
    with pytest.raises(SegformerPlusPlusError, match=r'image .*x\.tif .*'):
        reader(imdecode_backend=backend).file(path)


def test_16_bits_that_are_decoded_already(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / 'x.pgm')
    picture = Image.open(tmp_path / 'x.pgm')
    picture.load()
    np.testing.assert_array_equal(Reader().picture(picture, 'x')[..., 0], RAMP >> 8)
    with pytest.raises(SegformerPlusPlusError, match="image x has pixels of kind 'I'"):
        Reader().picture(Image.fromarray(RAMP.astype(np.int32)), 'x')


@pytest.mark.parametrize('channels', [None, 1, 2, 4])
def test_only_three_channels_have_an_order(channels):
    image = RGB[..., 0] if channels is None else np.dstack([RGB, RGB])[..., :channels]
    np.testing.assert_array_equal(turned(image), image)
    np.testing.assert_array_equal(turned(RGB), RGB[..., ::-1])


@pytest.mark.parametrize(
    ('image', 'shown'),
    [
        (RGB, RGB),
        (RGB[..., 0], RGB[..., [0, 0, 0]]),
        (np.dstack([RGB, RGB]), RGB),
        (RGB[..., :2], RGB[..., [0, 0, 0]]),
        (RGB.astype(np.float32), RGB),
        (RAMP, (np.rint(RAMP[..., None] / 257)).repeat(3, axis=2)),
        (RAMP / 65535 - 7, (np.rint(RAMP[..., None] / 257)).repeat(3, axis=2)),
        (RAMP > 9, np.where(RAMP > 9, 255, 0)[..., None].repeat(3, axis=2)),
        (np.zeros((2, 2)), np.zeros((2, 2, 3))),
    ],
)
def test_what_can_be_shown(image, shown):
    found = visible(image)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, shown)


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_floats_of_several_channels(tmp_path, backend):
    path = tmp_path / 'x.tif'
    cv2.imwrite(str(path), RGB.astype(np.float32) / 255, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    with pytest.raises(SegformerPlusPlusError, match=r'x\.tif cannot be read: its TIFF is damaged'):
        reader(imdecode_backend=backend).file(path)
    as_they_are = reader(imdecode_backend='cv2', color_type='unchanged').file(path)
    np.testing.assert_array_equal(as_they_are, RGB.astype(np.float32) / 255)


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('color_type', ['color', 'color_ignore_orientation', 'unchanged'])
def test_a_photo_is_turned_by_its_exif_whatever_way_it_comes(tmp_path, color_type, backend):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / 'x.png'
    coloured('RGB').save(path, exif=exif)
    reading = reader(color_type=color_type, imdecode_backend=backend)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))[..., ::-1]
    expected = upright if color_type == 'color' else RGB[..., ::-1]
    np.testing.assert_array_equal(mmcv.imread(path, flag=color_type, backend=backend), expected)
    for image in (*ways(reading, path), reading.picture(Image.open(path), 'x')):
        np.testing.assert_array_equal(image, expected)
    turned = reading.picture(ImageOps.exif_transpose(Image.open(path)), 'x')
    np.testing.assert_array_equal(turned, upright)  # not once more


def test_one_message_for_each_kind(tmp_path, said):
    for name, mode in (('a', 'RGBA'), ('b', 'LA'), ('c', 'RGB'), ('d', 'RGBA')):
        coloured(mode).save(tmp_path / f'{name}.png')
    several('GIF')(tmp_path / 'e.gif')
    for picture in find_pictures(tmp_path):
        picture.load()
    assert [re.sub('.*/', '', text) for text in said] == [
        'a.png: its transparency is dropped',
        'e.gif: only the first of its frames or pages is read',
    ]


@pytest.mark.parametrize(
    'content', [b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', b'FWS\x06']
)
def test_nothing_is_opened_that_starts_a_program(tmp_path, monkeypatch, content):
    def never(*_, **__):
        raise AssertionError('a program was started, or another plugin of Pillow was asked')

    path = tmp_path / 'x.jpg'
    path.write_bytes(content.ljust(200, b'\n'))
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', never)
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, '_open', never)
    found = 'it is EPS, which is not opened' if content[:1] == b'%' else 'it is no image'
    for read in (
        lambda: CheckedLoadImageFromFile().transform({'img_path': str(path)}),
        lambda: Reader().file(path),
        lambda: Reader().file(path, any_size=True),
        lambda: next(find_pictures(path)).load(),
        lambda: Reader().content(content, 'x.jpg'),
        lambda: reader(imdecode_backend='cv2').file(path),
        lambda: read_photograph(Reader(), path, str(path), 10**6),
    ):
        with pytest.raises(
            SegformerPlusPlusError, match=rf'image .*x\.jpg cannot be read: {found}'
        ):
            read()


def test_an_image_that_somebody_opened_as_another_format():
    stream = BytesIO()
    coloured('RGB').save(stream, 'TGA')
    with pytest.raises(SegformerPlusPlusError, match='image image-0 cannot be read: it is TGA'):
        Reader().picture(Image.open(stream), 'image-0')


def test_images_are_opened_in_one_place():
    """Every other ``Image.open`` takes whatever Pillow has a plugin for."""
    root = Path(segformer_plusplus.__file__).parents[1]
    files = [*(root / 'segformer_plusplus').rglob('*.py'), *(root / 'tools').rglob('*.py')]
    calls = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            opened = isinstance(node, ast.Attribute) and ast.unparse(node).endswith('Image.open')
            named = isinstance(node, ast.ImportFrom) and node.module == 'PIL.Image'
            calls += [file.relative_to(root).as_posix()] if opened or named else []
    assert calls == ['segformer_plusplus/loading/images.py']


@pytest.mark.parametrize(
    ('options', 'array', 'expected'),
    [
        ({}, RGB, RGB),
        ({}, RGB[..., 0], RGB[..., [0, 0, 0]]),
        (dict(color_type='grayscale'), RGB[..., 0], RGB[..., 0]),
        (
            dict(color_type='grayscale'),
            RGB,
            np.asarray(Image.fromarray(np.ascontiguousarray(RGB[..., ::-1])).convert('L')),
        ),
        (dict(color_type='unchanged'), np.dstack([RGB, RGB]), np.dstack([RGB, RGB])),
        (dict(color_type='unchanged'), RAMP, RAMP),
        (dict(to_float32=True), RGB, RGB.astype(np.float32)),
    ],
)
def test_arrays(options, array, expected):
    image = reader(**options).array(array, 'array-0')
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == expected.dtype


@pytest.mark.parametrize(
    ('options', 'array'),
    [
        ({}, RAMP),
        ({}, np.dstack([RGB, RGB])),
        (dict(color_type='grayscale'), RAMP),
        (dict(color_type='unchanged'), RGB[None]),
        (dict(color_type='unchanged'), RGB[:0]),
    ],
)
def test_arrays_that_the_config_does_not_read(options, array):
    with pytest.raises(SegformerPlusPlusError, match='array-0 is u?int'):
        reader(**options).array(array, 'array-0')


class LoadInHalf(LoadImageFromFile):
    """Somebody's own loader."""

    def transform(self, results):
        results = super().transform(results)
        results['img'] = results['img'] // 2
        return results


def test_loaders_of_other_kinds(tmp_path):
    path = tmp_path / 'x.png'
    Image.fromarray(RGB).save(path)
    bgr = RGB[..., ::-1]
    halved = reader_of(dict(type=LoadInHalf), dict(type='Resize', scale=(4, 4)))
    np.testing.assert_array_equal(halved.file(path), bgr // 2)
    np.testing.assert_array_equal(halved.file(path, any_size=True), bgr // 2)
    with pytest.raises(SegformerPlusPlusError, match=r'bytes-0: the loader .* reads files, not'):
        halved.content(path.read_bytes(), 'bytes-0')
    with pytest.raises(SegformerPlusPlusError, match=r'nowhere\.png cannot be read: No such file'):
        halved.file(tmp_path / 'nowhere.png')
    for kind in (LoadImageFromFile, 'LoadImageFromFile', 'mmcv.LoadImageFromFile'):
        grey = reader_of(dict(type=kind, color_type='grayscale'))
        np.testing.assert_array_equal(grey.file(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    np.testing.assert_array_equal(reader_of(dict(type='Resize', scale=(4, 4))).file(path), bgr)


@pytest.mark.parametrize('length', [0.3, 0.9])
def test_opencv_s_loader_does_not_fill_up_a_truncated_photo(tmp_path, length):
    path = tmp_path / 'x.jpg'
    Image.effect_noise((200, 200), 60).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * length)])
    with pytest.raises(SegformerPlusPlusError, match=r'x\.jpg cannot be read: .*truncated'):
        reader_of(dict(type='LoadImageFromFile')).file(path)


@pytest.mark.parametrize(
    'name', ['LoadSingleRSImageFromFile', 'LoadMultipleRSImageFromFile', 'LoadNothing']
)
def test_a_loader_whose_library_is_missing(name):
    pytest.importorskip('mmseg')
    with pytest.raises(SegformerPlusPlusError, match=f'the loader {name} cannot be built'):
        reader_of(dict(type=name), scope='mmseg')


def test_a_loader_of_mmseg_for_volumes(tmp_path):
    pytest.importorskip('mmseg')
    volume = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    np.save(tmp_path / 'x.npy', volume)
    step = dict(type='LoadBiomedicalImageFromFile', decode_backend='numpy')
    np.testing.assert_array_equal(reader_of(step, scope='mmseg').file(tmp_path / 'x.npy'), volume)


@pytest.mark.parametrize('color_type, channels', [('unchanged', 4), ('grayscale', 1)])
def test_predict_reads_what_test_reads(tmp_path, color_type, channels):
    """A model of other channels than three: the same labels as from its own pipeline."""
    pytest.importorskip('mmseg')
    from mmengine.dataset import Compose

    from segformer_plusplus.cli.predict import main
    from segformer_plusplus.inference import Segmenter

    load = f"dict(type='CheckedLoadImageFromFile', color_type='{color_type}')"
    text = SEGMENTATION.replace("dict(type='CheckedLoadImageFromFile')", load)
    text = re.sub(r'mean=.*57.375\],\s+bgr_to_rgb=True', 'mean=None, std=None', text)
    text = text.replace('embed_dims=8', f'in_channels={channels}, embed_dims=8')
    config, checkpoint = write_model(tmp_path / 'model', text)
    path = tmp_path / 'x.png'
    pixels = np.random.default_rng(1).integers(0, 256, (48, 80, 4), np.uint8)
    Image.fromarray(pixels if channels == 4 else pixels[..., 0]).save(path)
    segmenter = Segmenter(config, checkpoint, device='cpu')
    steps = Config.fromfile(config).test_dataloader.dataset.pipeline
    packed = Compose([step for step in steps if 'Annotations' not in step.type])(
        dict(img_path=str(path))
    )
    batch = {key: [packed[key]] for key in ('inputs', 'data_samples')}
    assert batch['inputs'][0].shape[0] == channels
    expected = segmenter.model.test_step(batch)[0].pred_sem_seg.data
    for given in (str(path), Image.open(path), segmenter.reader.file(path)):
        assert (segmenter(given).pred_sem_seg.data == expected).all()
    out = tmp_path / 'out'
    call = config, checkpoint, path, '--out', out, '--device', 'cpu', '--no-legend'
    assert main(list(map(str, call))) == 0
    overlay = np.asarray(Image.open(out / 'overlays/x.png'))
    assert overlay.shape == (48, 80, 3) and overlay.dtype == np.uint8
    tiled = Segmenter(config, checkpoint, device='cpu', tile=(32, 64))
    assert tiled(path).pred_sem_seg.data.shape == (1, 48, 80)
