"""Timings, peak memory and FLOP counts, checked on calls whose answer is known."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segformer_plusplus.errors import SegformerPlusPlusError, memory_errors
from segformer_plusplus.evaluation.benchmark.complexity import (
    _attention_flops,
    count_flops,
    count_parameters,
)
from segformer_plusplus.evaluation.timing import Timing, describe_environment, measure, peak_memory


def test_rounds_go_in_turn_after_the_warmup():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in 'ab'}
    timings = measure(calls, rounds=3, warmup=2)
    assert order == ['a', 'b'] * 5
    assert list(timings) == ['a', 'b']
    assert all(len(timing.seconds) == 3 for timing in timings.values())


def test_what_comes_before_a_run_is_not_timed():
    seen = []

    def before(name: str) -> None:
        seen.append(name)
        time.sleep(0.05)

    calls = {name: lambda name=name: seen.append(name.upper()) for name in 'ab'}
    timings = measure(calls, rounds=2, warmup=1, before=before)
    assert seen == ['a', 'A', 'b', 'B'] * 3
    assert all(timing.median < 0.05 for timing in timings.values())


def test_what_was_taken_before_an_interruption_is_kept():
    rounds = iter(range(3))
    taken = {}
    calls = {'a': lambda: None, 'b': lambda: next(rounds)}
    with pytest.raises(StopIteration):
        measure(calls, rounds=4, warmup=1, taken=taken)
    assert [len(seconds) for seconds in taken.values()] == [3, 2]


def test_times_are_seconds():
    timing = measure({'a': lambda: time.sleep(0.02)}, rounds=3, warmup=0)['a']
    assert 0.02 <= timing.median < 1


def test_timing():
    timing = Timing((4.0, 1.0, 2.0, 3.0, 100.0))
    assert timing.median == 3
    assert timing.quartiles == (2, 4)
    assert Timing((2.0,)).quartiles == (2, 2)


@pytest.mark.parametrize(('rounds', 'warmup'), [(0, 1), (1, -1)])
def test_wrong_rounds(rounds, warmup):
    with pytest.raises(SegformerPlusPlusError, match=f'{rounds} and {warmup}'):
        measure({}, rounds, warmup)


def test_peak_memory_on_the_cpu_is_the_maximum_of_what_is_alive():
    megabyte = 1_000_000

    def call() -> torch.Tensor:
        first = torch.empty(4 * megabyte, dtype=torch.uint8)
        second = torch.empty(8 * megabyte, dtype=torch.uint8)
        del first
        third = torch.empty(3 * megabyte, dtype=torch.uint8)
        del second
        return third

    assert peak_memory(call) == 12 * megabyte


def test_peak_memory_does_not_count_what_was_there_before():
    before = [torch.empty(1000, dtype=torch.uint8)]

    def call() -> torch.Tensor:
        before.clear()
        return torch.empty(400, dtype=torch.uint8)

    assert peak_memory(call) == 400


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
    with pytest.raises(SegformerPlusPlusError, match='huge: out of memory'), memory_errors('huge'):
        torch.empty(2**55, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match='another'), memory_errors('a'):
        raise RuntimeError('another')


def test_count_parameters():
    assert count_parameters(nn.BatchNorm2d(3)) == 6


@pytest.mark.parametrize('context', [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_count_flops(context):
    tokens, weight = torch.randn(2, 10, 8), torch.randn(4, 8)
    query, key = torch.randn(1, 2, 64, 32), torch.randn(1, 2, 16, 32)
    image, depthwise = torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3)
    with context():
        assert count_flops(lambda: F.linear(tokens, weight)) == 2 * 2 * 10 * 8 * 4
        attention = count_flops(lambda: F.scaled_dot_product_attention(query, key, key))
        assert attention == 2 * 2 * (2 * 64 * 16 * 32)
        convolution = count_flops(lambda: F.conv2d(image, depthwise, padding=1, groups=4))
        assert convolution == 2 * 4 * 8 * 8 * 9
        assert count_flops(lambda: F.gelu(tokens)) == 0


class Doubled(torch.autograd.Function):
    """Runs a module inside, which has no gradient function there."""

    @staticmethod
    def forward(ctx, module, tokens):
        return module(tokens) * 2

    @staticmethod
    def backward(ctx, grad):
        return None, grad


def test_count_flops_of_a_training_step_with_a_function_of_ones_own():
    first, second = nn.Linear(8, 4), nn.Linear(4, 2)
    tokens = torch.randn(10, 8)

    def step():
        second(Doubled.apply(nn.Linear(4, 4), first(tokens))).sum().backward()

    forward = 2 * 10 * (8 * 4 + 4 * 4 + 4 * 2)
    # the gradients of both weights, and that of the second layer's input
    backward = 2 * 10 * (8 * 4 + 4 * 2 + 4 * 2)
    assert count_flops(step) == forward + backward


def test_attention_formula_for_older_versions():
    assert (
        _attention_flops((1, 2, 64, 32), (1, 2, 16, 32), (1, 2, 16, 32)) == 2 * 2 * 2 * 64 * 16 * 32
    )


def test_environment():
    environment = describe_environment()
    assert environment['versions']['torch'].startswith('torch ')
    assert environment['versions']['tomesd'].startswith('tomesd 0.1')
    assert {'transformers', 'openvino'} <= set(environment['versions'])
    assert environment['cpu'] and environment['python'] and environment['platform']
