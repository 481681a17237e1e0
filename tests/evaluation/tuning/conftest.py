"""The tiny models of the tests of fidelity, on images that take some time."""

import gc  # noqa: I001
from pathlib import Path

import pytest
import torch
from evaluation.fidelity.conftest import jumpers, scenes

__all__ = ['jumpers', 'scenes']


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    """Runs one thread, as forked children do; another number of threads is another search.

    Objects that exist are frozen: a failed trial collects garbage, which takes a second otherwise.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()
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
