"""A tiny segmentor and a tiny pose estimator behind the page, and images to show them."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from inference.conftest import pose, segmentation
from mmengine.config import Config
from PIL import Image

from segformer_plusplus.demo import Comparer, open_comparer

__all__ = ['pose', 'segmentation']


@pytest.fixture(scope='session')
def comparer(segmentation) -> Comparer:
    config, checkpoint = segmentation
    return open_comparer(Config.fromfile(config), checkpoint, 'cpu')


@pytest.fixture(scope='session')
def pose_comparer(pose) -> Comparer:
    config, checkpoint = pose
    return open_comparer(Config.fromfile(config), checkpoint, 'cpu')


def large_pixels() -> np.ndarray:
    """Random pixels, each 8x8 large, so that there is something alike to merge."""
    small = np.random.default_rng().integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return small.repeat(8, axis=0).repeat(8, axis=1)


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / 'street.png'
    Image.fromarray(large_pixels()).save(path)
    return path


def all_at_once(call, everyone, ended, enough, gate):
    """Calls for everyone in threads of their own; the gate opens once so many have ended."""
    threads = [threading.Thread(target=call, args=[each]) for each in everyone]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(ended) < enough and time.monotonic() < deadline:
        time.sleep(0.01)
    gate.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def broken(tmp_path, picture) -> Path:
    """The first half of an image file."""
    content = picture.read_bytes()
    path = tmp_path / 'broken.png'
    path.write_bytes(content[: len(content) // 2])
    return path
