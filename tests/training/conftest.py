"""Holds what the tests of training share: data, and trainings that several tests compare with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_training import KILLS, Sums, config, trained, write_data


@pytest.fixture(scope='session')
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='session')
def calm(data, tmp_path_factory) -> Path:
    """Trains with all kinds of randomness, saves every iteration and returns the work dir."""
    changes = {'train_cfg.max_iters': max(6, 5 * KILLS), 'default_hooks.checkpoint.interval': 1}
    return trained(config(data, tmp_path_factory.mktemp('calm') / 'work', **changes), hook=Sums())


@pytest.fixture(scope='session')
def plain(data, tmp_path_factory) -> Path:
    """Trains six iterations without randomness and returns the work dir."""
    return trained(config(data, tmp_path_factory.mktemp('plain') / 'work', random=False))
