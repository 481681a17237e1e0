"""The profile of layers, on a tiny image."""

import json
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'cityscapes/segformer_mit-b0_none_1xb4-160k_cityscapes-1024x1024.py'


@pytest.fixture(scope='module')
def tool():
    from tools.benchmarks import layers

    return layers


def test_time_goes_to_the_innermost_call(tool, monkeypatch):
    now = 0

    class Layers:
        def outer(self, seconds):
            pass_time(1)
            self.inner(seconds)
            pass_time(2)

        def inner(self, seconds):
            pass_time(seconds)

    def pass_time(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(tool, 'PARTS', {'a': [(Layers, 'outer')], 'b': [(Layers, 'inner')]})
    with tool.stopwatch(lambda: now) as seconds:
        Layers().outer(5)
        pass_time(100)
        Layers().inner(7)
    Layers().outer(9)
    assert seconds == {'a': 3, 'b': 12}


def test_every_kind_is_timed_on_both_sides(tool, tmp_path):
    pytest.importorskip('mmseg')
    pytest.importorskip('openvino')
    threads = torch.get_num_threads()
    files = {name: tmp_path / f'layers.{name}' for name in ('json', 'markdown')}
    try:
        words = [f'--{name}={path}' for name, path in files.items()]
        start = time.process_time()
        argv = [str(ROOT / 'configs' / CONFIG), *words, '--shape', '64x96', '--rounds', '2']
        assert tool.main([*argv, '--token-merging', 'hq', '--precision', 'f32']) == 0
        passed = time.process_time() - start
    finally:
        torch.set_num_threads(threads)
    (run,) = json.loads(files['json'].read_text())['runs']
    assert list(run['kinds']) == list(tool.PARTS)
    assert all(min(ways) > 0 for ways in run['kinds'].values()), run['kinds']
    assert sum(map(sum, run['kinds'].values())) < passed
    assert len(files['markdown'].read_text().splitlines()) == 2 + len(tool.PARTS) + 1
