"""Timings and peak memory, checked on calls whose answer is known."""

import sys
import threading
import time

import numpy as np
import pytest
import torch

from segformer_plusplus.errors import SegformerPlusPlusError, memory_errors
from segformer_plusplus.evaluation import timing
from segformer_plusplus.evaluation.timing import (
    Load,
    Timing,
    describe_environment,
    file_memory,
    measure,
    peak_memory,
)


def test_rounds_go_in_turn_after_the_warmup_and_preparations_are_not_timed():
    seen = []

    def before(name: str) -> None:
        seen.append(name)
        time.sleep(0.05)

    calls = {'a': lambda: seen.append('A'), 'b': lambda: seen.append('B') or time.sleep(0.02)}
    timings = measure(calls, rounds=3, warmup=2, before=before)
    assert seen == ['a', 'A', 'b', 'B'] * 5
    assert [(name, len(timing.seconds)) for name, timing in timings.items()] == [('a', 3), ('b', 3)]
    assert timings['a'].median < 0.05 and 0.02 <= min(timings['b'].seconds) < 0.5


@pytest.mark.parametrize(('warmup', 'taken'), [(1, [3, 2]), (4, [0, 0])])
def test_what_was_taken_before_an_interruption_is_kept(warmup, taken):
    left, seconds = iter(range(3)), {}
    with pytest.raises(StopIteration):
        measure({'a': lambda: None, 'b': lambda: next(left)}, 4, warmup, taken=seconds)
    assert [len(each) for each in seconds.values()] == taken


def test_timing():
    timing = Timing((4.0, 1.0, 2.0, 3.0, 100.0))
    assert (timing.median, timing.quartiles) == (3, (2, 4))
    assert Timing((2.0,)).quartiles == (2, 2)


@pytest.mark.parametrize(('rounds', 'warmup'), [(0, 1), (1, -1)])
def test_wrong_rounds(rounds, warmup):
    with pytest.raises(SegformerPlusPlusError, match=f'{rounds} and {warmup}'):
        measure({}, rounds, warmup)


def test_peak_memory_is_the_maximum_of_what_is_alive_and_was_not_before():
    before = [torch.empty(1_000_000, dtype=torch.uint8)]

    def call() -> torch.Tensor:
        before.clear()
        first = torch.empty(4_000_000, dtype=torch.uint8)
        second = torch.empty(8_000_000, dtype=torch.uint8)
        del first
        third = torch.empty(3_000_000, dtype=torch.uint8)
        del second
        return third

    assert peak_memory(call) == 12_000_000


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_on_cuda():
    size = 2**24

    def call() -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device='cuda').add_(1)

    assert peak_memory(call, 'cuda') == size
    assert measure({'a': call}, rounds=2, warmup=1, device='cuda')['a'].median > 0
    with pytest.raises(SegformerPlusPlusError, match='huge: out of memory'), memory_errors('huge'):
        torch.empty(2**50, dtype=torch.uint8, device='cuda')


def test_out_of_memory_becomes_one_line():
    with pytest.raises(SegformerPlusPlusError, match='huge: out of memory'):
        measure({'huge': lambda: torch.empty(2**55, dtype=torch.uint8)}, 1, 0)
    with pytest.raises(RuntimeError, match='another'), memory_errors('a'):
        raise RuntimeError('another')


def test_environment():
    environment = describe_environment()
    assert environment['versions']['torch'].startswith('torch ')
    assert environment['versions']['tomesd'].startswith('tomesd 0.1')
    assert {'transformers', 'openvino'} <= set(environment['versions'])
    assert environment['cpu'] and environment['python'] and environment['platform']


def test_two_lines_in_one_environment_are_both_named(monkeypatch):
    monkeypatch.setattr(timing, 'has_distribution', lambda name: 'mmengine' in name)
    monkeypatch.setattr(timing.metadata, 'version', {'onedl-mmengine': '2', 'mmengine': '1'}.get)
    assert describe_environment()['versions']['mmengine'] == 'onedl-mmengine 2, mmengine 1'


def test_requests_in_flight_wait_for_a_worker():
    """Four callers, two workers of 30 ms: two calls at a time, each with its wait."""
    busy, most, counts, lock = [0, 0], [0, 0], [0, 0], threading.Lock()

    def worker(index):
        with lock:
            busy[index] += 1
            most[index] = max(most[index], busy[index])
            most.append(sum(busy))
            counts[index] += 1
        time.sleep(0.03)
        with lock:
            busy[index] -= 1

    load = Load([lambda: worker(0), lambda: worker(1)], requests=4)
    load()
    load.seconds.clear()
    start = time.perf_counter()
    load()
    taken = time.perf_counter() - start
    assert len(load.seconds) == 4 * Load.calls and sum(counts) == 2 * 4 * Load.calls
    assert most[:2] == [1, 1] and max(most[2:]) == 2
    assert taken >= 0.03 * 2 * Load.calls  # no more than two at a time
    assert min(load.seconds) >= 0.03 and 0.055 <= np.median(load.seconds) < 0.5


@pytest.mark.parametrize(('workers', 'share'), [(1, 4), (2, 2), (4, 1)])
def test_workers_share_the_threads(workers, share):
    before, seen = torch.get_num_threads(), set()
    try:
        torch.set_num_threads(4)
        Load([lambda: seen.add(torch.get_num_threads())] * workers, requests=4)()
        assert seen == {share} and torch.get_num_threads() == 4
        others = []
        thread = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert others == [4]
    finally:
        torch.set_num_threads(before)


def test_a_worker_that_fails_is_heard_and_comes_back():
    failing = iter([True])

    def worker():
        if next(failing, False):
            raise SegformerPlusPlusError('too small')

    load = Load([worker], requests=2)
    with pytest.raises(SegformerPlusPlusError, match='too small'):
        load()
    load()  # would wait for ever


class _Grows(torch.nn.Module):
    def forward(self, images):
        large = images.expand(50, *images.shape[1:]) + 1.0
        return large.sum(dim=0, keepdim=True)


@pytest.mark.skipif(sys.platform != 'linux', reason='needs /proc')
def test_the_memory_of_a_file_is_that_of_a_process_of_its_own(tmp_path):
    """Whatever this one has had at its peak; one prediction needs 50 MiB at least."""
    images = torch.zeros(1, 1, 512, 512)
    program = torch.export.export(_Grows(), (images,))
    torch.export.save(program, tmp_path / 'a.pt2')
    held = torch.ones(2**26)  # 256 MiB, which a child would seem to have, too
    found = file_memory(tmp_path / 'a.pt2', 'torch', images)
    assert held.numel() and 50 * 2**20 < found < 200 * 2**20
    with pytest.raises(SegformerPlusPlusError, match='gone.pt2: its memory cannot be measured: .*'):
        file_memory(tmp_path / 'gone.pt2', 'torch', images)
