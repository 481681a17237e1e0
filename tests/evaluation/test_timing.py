"""Timings and peak memory, checked on calls whose answer is known."""

import time

import pytest
import torch

from segformer_plusplus.errors import SegformerPlusPlusError, memory_errors
from segformer_plusplus.evaluation.timing import Timing, describe_environment, measure, peak_memory


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
