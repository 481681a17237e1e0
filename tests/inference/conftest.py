"""A tiny segmentor and a tiny pose estimator: config file and checkpoint of each."""

from pathlib import Path

import pytest

from .tiny import POSE, SEGMENTATION, write_model


@pytest.fixture(scope='session')
def segmentation(tmp_path_factory) -> tuple[Path, Path]:
    pytest.importorskip('mmseg')
    return write_model(tmp_path_factory.mktemp('segmentation'), SEGMENTATION)


@pytest.fixture(scope='session')
def pose(tmp_path_factory) -> tuple[Path, Path]:
    pytest.importorskip('mmpose')
    pytest.importorskip('xtcocotools')
    return write_model(tmp_path_factory.mktemp('pose'), POSE)
