"""Loading images for pose estimation."""

import numpy as np
import pytest

pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it

import segformer_plusplus  # noqa: F401  (must precede mmpose)

# isort: split
from mmpose.datasets.transforms import LoadImage
from PIL import Image

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.pose import CheckedLoadImage


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng().integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    return tmp_path / 'a.png'


def test_from_a_file_as_mmpose(picture):
    ours = CheckedLoadImage()(dict(img_path=str(picture)))
    theirs = LoadImage()(dict(img_path=str(picture)))
    np.testing.assert_array_equal(ours['img'], theirs['img'])
    assert ours['img_shape'] == theirs['img_shape'] and ours['ori_shape'] == theirs['ori_shape']


@pytest.mark.parametrize('to_float32', [False, True])
def test_from_an_array_as_mmpose(to_float32):
    image = np.zeros((4, 6, 3), np.uint8)
    ours = CheckedLoadImage(to_float32=to_float32)(dict(img=image))
    theirs = LoadImage(to_float32=to_float32)(dict(img=image))
    assert ours.keys() == theirs.keys()
    assert ours['img'].dtype == (np.float32 if to_float32 else np.uint8)
    assert ours['img_shape'] == ours['ori_shape'] == (4, 6)


@pytest.mark.parametrize('fault', ['missing', 'text', 'truncated'])
def test_a_damaged_file_is_named(picture, fault):
    if fault == 'missing':
        picture.unlink()
    else:
        data = picture.read_bytes()
        picture.write_bytes(b'text' if fault == 'text' else data[: len(data) // 2])
    with pytest.raises(SegformerPlusPlusError, match=r'image .*a\.png cannot be read'):
        CheckedLoadImage()(dict(img_path=str(picture)))
