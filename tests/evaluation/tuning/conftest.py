"""The tiny models of the tests of fidelity, on images that take some time."""

from pathlib import Path  # noqa: I001

import pytest
import torch
from evaluation.fidelity.conftest import jumpers, scenes

__all__ = ['jumpers', 'scenes']


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    """As forked children have: a search does not go on with another number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='session')
def large_scenes(scenes) -> tuple[Path, Path]:
    """Config and checkpoint; the images are so large that half the size is faster for sure."""
    config, checkpoint = scenes
    text = config.read_text()
    assert 'scale=(256, 128)' in text
    large = config.with_name('large.py')
    large.write_text(text.replace('scale=(256, 128)', 'scale=(768, 384)'))
    return large, checkpoint
