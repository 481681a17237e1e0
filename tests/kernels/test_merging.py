"""Means of groups, against sums in double precision."""

import pytest

pytest.importorskip('triton')

import torch

from segformer_plusplus.kernels.merging import CHANNELS, TOKENS, _group_means, group_means

from .gpu import DEVICE, DTYPES, check_compiled


def groups(batch, num_tokens, num_merged):
    """A random group for each token; every group has one."""
    first = torch.stack([torch.randperm(num_merged) for _ in range(batch)])
    slot = torch.cat([first, torch.randint(num_merged, (batch, num_tokens - num_merged))], 1)
    slot = slot[:, torch.randperm(num_tokens)] + torch.arange(batch)[:, None] * num_merged
    sizes = slot.flatten().bincount(minlength=batch * num_merged).view(batch, num_merged)
    return slot.flatten().to(DEVICE), sizes.to(DEVICE)


def means(tokens, index, sizes):
    totals = tokens.new_zeros(sizes.numel(), tokens.shape[2], dtype=torch.float64)
    totals.index_add_(0, index, tokens.flatten(0, 1).double())
    return (totals / sizes.view(-1, 1)).unflatten(0, sizes.shape)


def check(found, tokens, index, sizes):
    expected = means(tokens, index, sizes)
    assert (found.shape, found.dtype) == (expected.shape, tokens.dtype)
    # the interpreter cuts numbers off where a GPU rounds them
    rtol = 2**-7 if tokens.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(
    'batch, num_tokens, num_merged, channels',
    [
        (2, 100, 37, 64),
        (1, 200, 3, 160),  # large groups
        (3, 33, 33, 20),  # all are alone
        (2, 70, 1, 130),  # none is
        (2, 90, 40, 1),
        (2, 90, 40, 5),  # a weight in each head
        (1, 1, 1, 8),
    ],
)
def test_means_are_those_of_the_groups(batch, num_tokens, num_merged, channels, dtype):
    tokens = torch.randn(batch, num_tokens, channels, device=DEVICE).to(dtype)
    index, sizes = groups(batch, num_tokens, num_merged)
    check(group_means.launch(tokens, index, sizes), tokens, index, sizes)
    with pytest.raises(AssertionError):
        check(group_means.launch(tokens + 0.1, index, sizes), tokens, index, sizes)


@pytest.mark.parametrize('layout', ['channels first', 'part of a batch', 'part of tokens'])
def test_tokens_lie_in_memory_as_they_like(layout):
    tokens, (index, sizes) = torch.randn(2, 60, 24, device=DEVICE), groups(2, 60, 20)
    if layout == 'channels first':
        tokens = tokens.mT.contiguous().mT
    elif layout == 'part of a batch':
        tokens = torch.stack([tokens, torch.randn_like(tokens)], 1)[:, 0]
    else:
        tokens = torch.cat([tokens, torch.randn_like(tokens)], 2)[..., :24]
    assert not tokens.is_contiguous()
    check(group_means.launch(tokens, index, sizes), tokens, index, sizes)


def test_tokens_that_are_alone_are_copied():
    tokens = torch.randn(1, 50, 8, device=DEVICE)
    index, sizes = groups(1, 50, 50)
    assert torch.equal(group_means.launch(tokens, index, sizes)[0, index], tokens[0])


def test_a_large_group_in_half_precision():
    """A sum of ones in bf16 stops growing at 256."""
    tokens = torch.ones(1, 700, 2, device=DEVICE, dtype=torch.bfloat16)
    found = group_means.launch(tokens, *groups(1, 700, 1))
    torch.testing.assert_close(found, torch.ones_like(found))


def test_nan_stays_in_its_group():
    tokens, (index, sizes) = torch.randn(2, 40, 6, device=DEVICE), groups(2, 40, 10)
    tokens[1, 7, 2] = float('nan')
    found = group_means.launch(tokens, index, sizes).isnan()
    assert found.sum() == 1 and found.flatten(0, 1)[index[40 + 7], 2]


def test_it_compiles_without_spilling():
    variants = [
        (
            dict(tokens=kind, index='*i64', sizes='*i64', means='*fp32'),
            dict(channels=c, stride_n=c, stride_b=2048 * c, stride_c=1, TOKENS=TOKENS, CHANNELS=w),
            {},
        )
        for kind in ('*fp32', '*bf16')
        for c, w in ((5, 16), (320, CHANNELS))
    ]
    check_compiled(_group_means, variants)
