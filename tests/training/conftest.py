"""What the tests of training share: data, and trainings that several of them compare with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_training import KILLS, Sums, config, in_child, run, write_data


@pytest.fixture(scope='session')
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='session')
def calm(data, tmp_path_factory) -> Path:
    """The work dir of a training with all kinds of randomness; every iteration is saved."""
    work = tmp_path_factory.mktemp('calm')
    changes = {'train_cfg.max_iters': max(6, 5 * KILLS), 'default_hooks.checkpoint.interval': 1}
    cfg = config(data, work, **changes)
    code = in_child(lambda: run(cfg, before=lambda r: r.register_hook(Sums())), work / 'log.txt')
    assert code == 0, (work / 'log.txt').read_text()[-3000:]
    return work


@pytest.fixture(scope='session')
def plain(data, tmp_path_factory) -> Path:
    """The work dir of a training without randomness, of six iterations."""
    work = tmp_path_factory.mktemp('plain')
    code = in_child(lambda: run(config(data, work, random=False)), work / 'log.txt')
    assert code == 0, (work / 'log.txt').read_text()[-3000:]
    return work
