"""Where kernels run, and what happens where they do not."""

import logging
import pkgutil
from contextlib import contextmanager
from importlib import import_module

import pytest
import torch

from segformer_plusplus import kernels
from segformer_plusplus.kernels import enabled, is_enabled, runtime
from segformer_plusplus.kernels.runtime import operator, runs_on

for module in pkgutil.iter_modules(kernels.__path__, f'{kernels.__name__}.'):
    import_module(module.name)
CPU = torch.device('cpu')
OPERATORS = list(runtime.OPERATORS.values())


@pytest.fixture
def capable(monkeypatch):
    """A GPU that is not there is new enough."""
    monkeypatch.setattr(runtime, 'is_capable', lambda device: True)


def on_gpu(no_gpu, dtype=torch.bfloat16, **settings):
    with no_gpu:
        return torch.empty(2, 3, device='cuda', dtype=dtype, **settings)


def test_kernels_run_on_a_gpu_alone(capable, no_gpu):
    assert runs_on(on_gpu(no_gpu))
    assert not runs_on(torch.empty(2))


def test_nothing_that_a_kernel_does_not_know_goes_to_it(capable, no_gpu):
    assert not runs_on(on_gpu(no_gpu, torch.float64))
    assert not runs_on(on_gpu(no_gpu, torch.float32), dtypes=runtime.HALF)
    assert not runs_on(on_gpu(no_gpu), on_gpu(no_gpu, torch.float32))
    assert not runs_on(on_gpu(no_gpu), on_gpu(no_gpu), on_gpu(no_gpu, torch.float16))
    with no_gpu:
        elsewhere = torch.empty(2, device='cuda:1', dtype=torch.bfloat16)
        assert not runs_on(on_gpu(no_gpu), elsewhere)
        assert not runs_on(on_gpu(no_gpu), torch.empty(2, dtype=torch.bfloat16))


def test_what_needs_gradients_goes_to_pytorch(capable, no_gpu):
    tokens = on_gpu(no_gpu, requires_grad=True)
    assert not runs_on(tokens)
    assert not runs_on(on_gpu(no_gpu), tokens)
    with torch.no_grad():
        assert runs_on(tokens)


def test_the_switch_holds_until_the_end_of_the_block(capable, no_gpu):
    tokens = on_gpu(no_gpu)
    with enabled(False):
        assert not is_enabled()
        assert not runs_on(tokens)
    assert is_enabled()
    assert runs_on(tokens)


def test_deterministic_algorithms_are_those_of_pytorch(capable, no_gpu):
    torch.use_deterministic_algorithms(True)
    try:
        assert not runs_on(on_gpu(no_gpu))
    finally:
        torch.use_deterministic_algorithms(False)


def test_graphs_that_are_exported_or_traced_have_none(capable, no_gpu, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, 'is_tracing', lambda: True)
        assert not runs_on(on_gpu(no_gpu))
    monkeypatch.setattr(torch.compiler, 'is_exporting', lambda: True)
    assert not runs_on(on_gpu(no_gpu))


def test_derivatives_of_functions_have_none(capable, no_gpu, monkeypatch):
    seen = []

    def function(tokens):
        monkeypatch.setattr(runtime, 'is_capable', lambda device: True)
        seen.append(runtime._is_transformed())
        return tokens * 2

    torch.func.jvp(function, (torch.ones(2),), (torch.ones(2),))
    torch.func.vmap(function)(torch.ones(2, 3))
    with torch.autograd.forward_ad.dual_level():
        function(torch.ones(2))
    function(torch.ones(2))
    assert seen == [True, True, True, False]
    monkeypatch.setattr(runtime, '_is_transformed', lambda: True)
    assert not runs_on(on_gpu(no_gpu))


def test_autocast_chooses_types_that_a_kernel_does_not(capable, no_gpu, monkeypatch):
    monkeypatch.setattr(torch, 'is_autocast_enabled', lambda kind: kind == 'cuda')
    assert not runs_on(on_gpu(no_gpu))


@pytest.mark.parametrize(
    'version, capability, works',
    [('3.9.0', (9, 0), True), ('3.2.0', (8, 0), True), ('3.1.0', (9, 0), False)]
    + [('3.9.0', (7, 5), False), (None, (9, 0), False)],
)
def test_an_old_gpu_or_triton_or_none_is_not_taken(version, capability, works, monkeypatch):
    triton = None if version is None else type('triton', (), {'__version__': version})
    monkeypatch.setattr(runtime, 'triton', triton)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda index: capability)
    runtime._is_capable.cache_clear()
    try:
        assert runtime.is_capable(torch.device('cuda', 0)) is works
    finally:
        runtime._is_capable.cache_clear()


NAMES = iter(f'test_operator_{number}' for number in range(1000))


def doubled(launch):
    """An operator that doubles, whose kernel is ``launch``."""
    launch.__name__ = next(NAMES)
    return operator(
        schema='(Tensor tokens) -> Tensor',
        reference=lambda tokens: tokens * 2,
        example=lambda device, dtype: (torch.ones(3, dtype=dtype),),
        agrees=torch.equal,
        launches=1,
    )(launch)


@pytest.fixture
def as_on_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    return lambda each, *arguments: each._run_on((CPU, arguments[0].dtype), arguments)


def test_a_kernel_that_agrees_is_taken(as_on_gpu, caplog):
    calls = []
    double = doubled(lambda tokens: calls.append(tokens) or tokens + tokens)
    assert as_on_gpu(double, torch.tensor([2.0, 3.0])).tolist() == [4, 6]
    assert as_on_gpu(double, torch.tensor([5.0])).tolist() == [10]
    assert len(calls) == 3  # once to try it
    assert not caplog.records


@pytest.mark.parametrize('wrong', ['differs', 'raises'])
def test_a_kernel_that_is_wrong_is_said_once_and_not_taken_again(wrong, as_on_gpu, caplog):
    def launch(tokens):
        if wrong == 'raises':
            raise RuntimeError('Failed to find C compiler.\nlong story')
        return tokens * 3

    double = doubled(launch)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert as_on_gpu(double, torch.tensor([2.0])).tolist() == [4]
    [record] = caplog.records
    said = 'C compiler' if wrong == 'raises' else 'differs'
    assert said in record.getMessage() and 'long story' not in record.getMessage()


def test_a_kernel_that_fails_later_is_said_and_its_call_has_the_right_result(as_on_gpu, caplog):
    def launch(tokens):
        if len(tokens) > 3:
            raise RuntimeError('out of resource: shared memory')
        return tokens * 2

    double = doubled(launch)
    assert as_on_gpu(double, torch.ones(3)).tolist() == [2, 2, 2]
    assert as_on_gpu(double, torch.ones(4)).tolist() == [2, 2, 2, 2]
    assert as_on_gpu(double, torch.ones(3)).tolist() == [2, 2, 2]
    assert 'out of resource' in caplog.text and len(caplog.records) == 1


def test_no_memory_is_no_fault_of_the_kernel(as_on_gpu, caplog):
    def launch(tokens):
        if len(tokens) > 3:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return tokens * 2

    double = doubled(launch)
    with pytest.raises(torch.OutOfMemoryError):
        as_on_gpu(double, torch.ones(4))
    assert not caplog.records


def test_arguments_that_pytorch_refuses_are_no_fault_of_the_kernel(as_on_gpu, caplog):
    def launch(tokens):
        if tokens.dim() > 1:
            raise ValueError('a grid of no blocks')
        return tokens * 2

    double = doubled(launch)
    double.reference = lambda tokens: torch.dot(tokens, tokens)
    double.agrees = lambda found, expected: True
    with pytest.raises(RuntimeError):
        as_on_gpu(double, torch.ones(1, 1))
    assert as_on_gpu(double, torch.ones(1)).tolist() == [2]
    assert not caplog.records


def test_no_memory_while_it_is_tried_is_tried_again(as_on_gpu):
    full = [True]

    def launch(tokens):
        if full:
            full.clear()
            raise torch.OutOfMemoryError('CUDA out of memory')
        return tokens * 2

    double = doubled(launch)
    with pytest.raises(torch.OutOfMemoryError):
        as_on_gpu(double, torch.ones(1))
    assert as_on_gpu(double, torch.ones(1)).tolist() == [2]
    assert double._works


def test_it_is_launched_where_the_tensors_are(monkeypatch):
    entered = []

    @contextmanager
    def device(where):
        entered.append(where)
        yield
        entered.append('left')

    monkeypatch.setattr(torch.cuda, 'device', device)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    double = doubled(lambda tokens: entered.append('launched') or tokens * 2)
    double._run(torch.ones(1))
    assert entered == [CPU, 'launched', 'launched', 'left']


def test_what_was_never_tried_is_not_recorded_into_a_graph(as_on_gpu, monkeypatch):
    double = doubled(lambda tokens: tokens * 3)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    assert as_on_gpu(double, torch.ones(1)).tolist() == [2]


@pytest.mark.parametrize('each', OPERATORS, ids=lambda each: each.__name__)
def test_pytorch_knows_the_operator(each):
    arguments = each.example(torch.device('cpu'), torch.float32)
    torch.library.opcheck(each._operator, arguments)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('each', OPERATORS, ids=lambda each: each.__name__)
def test_the_example_that_kernels_are_tried_on_agrees(each, dtype):
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    arguments = each.example(device, dtype)
    assert each.agrees(each.launch(*arguments), each.reference(*arguments))


@pytest.mark.parametrize('each', OPERATORS, ids=lambda each: each.__name__)
def test_without_a_gpu_the_operator_is_its_reference(each):
    arguments = each.example(torch.device('cpu'), torch.float32)
    found, expected = each(*arguments), each.reference(*arguments)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
