"""Where the model hands its attention to kernels of GPUs; on a CPU their operators are PyTorch."""

import pytest
import torch
from kernels.counting import Kernels

from segformer_plusplus.kernels import runtime
from segformer_plusplus.mit import cpu
from segformer_plusplus.mit.attention import EfficientAttention
from segformer_plusplus.token_merging import (
    BipartiteSoftMatching2d,
    NeighborMerging2d,
    StageMerging,
)

DIMS, GRID = 64, (12, 16)
MATCHING = BipartiteSoftMatching2d(0.7, 2)
OURS = {'attention', 'merge_weighed'}


def taken(kernels):
    return OURS & set(kernels.ours)


def attention(how, kv=MATCHING, dims=DIMS, dropout=0.0):
    module = EfficientAttention(
        dims, 2, 2, True, dropout, 0.0, torch.nn.LayerNorm(dims), StageMerging(None, kv, how)
    )
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval()


def called(module, dtype=torch.bfloat16, dims=DIMS, no_grad=True):
    """Which of our operators the module calls, on a GPU that is not there."""
    with torch.device('cuda'):
        tokens = torch.empty(2, GRID[0] * GRID[1], dims, dtype=dtype)
    with torch.set_grad_enabled(not no_grad), Kernels() as calls:
        module(tokens, GRID)
    return calls


@pytest.fixture
def on_gpu(no_gpu, monkeypatch):
    """Models are made on a GPU that is not there and is new enough."""
    monkeypatch.setattr(runtime, 'is_capable', lambda device: True)

    def build(*args, dtype=torch.bfloat16, **settings):
        torch.set_default_dtype(dtype)
        try:
            with torch.device('cuda'):
                return attention(*args, **settings)
        finally:
            torch.set_default_dtype(torch.float32)

    with no_gpu:
        yield build


@pytest.mark.parametrize(
    'how, kv, dtype, expected',
    [
        (False, MATCHING, torch.bfloat16, set()),  # PyTorch's flash attention
        (True, MATCHING, torch.bfloat16, {'attention'}),
        (True, MATCHING, torch.float16, {'attention'}),
        (True, NeighborMerging2d(2), torch.bfloat16, {'attention'}),
        (True, MATCHING, torch.float32, set()),
        ('sampled', MATCHING, torch.bfloat16, OURS),
        ('sampled', MATCHING, torch.float32, {'merge_weighed'}),
        ('sampled', NeighborMerging2d(2), torch.bfloat16, {'attention'}),
    ],
)
def test_kernels_are_taken_where_there_is_a_bias(how, kv, dtype, expected, on_gpu):
    assert taken(called(on_gpu(how, kv, dtype=dtype), dtype)) == expected


@pytest.mark.parametrize('how', [True, 'sampled'])
def test_they_are_not_taken_in_training_nor_where_the_attention_is_called_whole(how, on_gpu):
    assert not taken(called(on_gpu(how), no_grad=False))
    dropping = on_gpu(how, dropout=0.5)
    assert 'attention' in taken(called(dropping))
    assert 'attention' not in taken(called(dropping.train()))
    hooked = on_gpu(how)
    hooked.attn.register_forward_hook(lambda *_: None)
    hooked.merging = StageMerging(None, MATCHING, True)
    assert not taken(called(hooked))


@pytest.mark.parametrize('how', [True, 'sampled'])
def test_heads_that_no_kernel_knows(how, on_gpu):
    assert 'attention' not in taken(called(on_gpu(how, dims=96), dims=96))


def test_weighing_and_attending_launch_little(on_gpu):
    """All that a sample costs beside ``True`` is: to take, to project and to weigh it."""
    called(on_gpu(True))  # the grid's split is kept
    extra = called(on_gpu('sampled')).names - called(on_gpu(True)).names
    assert extra == dict(clone=1, addmm=1, merge_weighed=1)


@pytest.mark.parametrize('how', [True, 'sampled'])
@pytest.mark.parametrize('kv', [MATCHING, NeighborMerging2d(2)], ids=repr)
def test_the_operators_give_what_the_plain_path_gives(how, kv, monkeypatch):
    tokens = torch.randn(2, GRID[0] * GRID[1], DIMS)
    module = attention(how, kv)
    with torch.inference_mode(), cpu.chunked(False):
        expected = module(tokens, GRID)
        for name in ('attention', 'weighing'):
            module_name = f'segformer_plusplus.kernels.{name}.runs_on'
            monkeypatch.setattr(module_name, lambda *tensors, dtypes=None: True)
        with Kernels() as calls:
            actual = module(tokens, GRID)
    sampled = how == 'sampled' and kv is MATCHING
    assert taken(calls) == (OURS if sampled else {'attention'})
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
