"""A tiny segmentor behind the page, and images to show it."""

from pathlib import Path

import numpy as np
import pytest
from inference.conftest import segmentation
from PIL import Image

from segformer_plusplus.inference import Segmenter

__all__ = ['segmentation']


@pytest.fixture(scope='session')
def segmenter(segmentation) -> Segmenter:
    return Segmenter(*segmentation, device='cpu')


@pytest.fixture
def picture(tmp_path) -> Path:
    """Random pixels, each 8x8 large, so that there is something alike to merge."""
    small = np.random.default_rng().integers(0, 256, (12, 16, 3), dtype=np.uint8)
    path = tmp_path / 'street.png'
    Image.fromarray(small.repeat(8, axis=0).repeat(8, axis=1)).save(path)
    return path


@pytest.fixture
def broken(tmp_path, picture) -> Path:
    """The first half of an image file."""
    content = picture.read_bytes()
    path = tmp_path / 'broken.png'
    path.write_bytes(content[: len(content) // 2])
    return path
