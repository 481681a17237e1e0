"""Keys and values merged by the attention of a sample, against loops from the definition."""

import itertools

import pytest

pytest.importorskip('triton')

import torch

from segformer_plusplus.kernels.weighing import (
    KEYS,
    LEAST_ATTENTION,
    MOST_DIMS,
    MOST_SAMPLES,
    PARTS,
    _add,
    _average,
    _look,
    merge_weighed,
    weighs,
)

from .gpu import DEVICE, DTYPES, check_compiled

EXACT = 1e-5 if DEVICE.type == 'cpu' else 1e-4
"""A GPU makes a product in float32 of three in TF32."""


def merged_one_by_one(query, key, value, slot, num_heads):
    """Keys, values, and how often each counts, in float64."""
    query, key, value = (tokens.double() for tokens in (query, key, value))
    dims, groups = key.shape[-1] // num_heads, int(slot.max()) + 1
    keys, values = key.new_zeros(2, len(key), groups, key.shape[-1])
    counts = key.new_zeros(len(key), num_heads, groups)
    for b, head in itertools.product(range(len(key)), range(num_heads)):
        part = slice(head * dims, (head + 1) * dims)
        q, k, v = query[b, :, part], key[b, :, part], value[b, :, part]
        scores = q @ k.T / dims**0.5
        paid = scores.softmax(1).mean(0).clamp_min(LEAST_ATTENTION)
        for group in range(groups):
            member = slot[b] == group
            share = paid[member] / paid[member].sum()
            keys[b, group, part] = mean = share @ k[member]
            values[b, group, part] = share @ v[member]
            once = (q @ mean / dims**0.5 - scores.logsumexp(1)).exp().mean()
            counts[b, head, group] = (paid[member].sum() / once).clamp(1, member.sum())
    return keys, values, counts.log()


def drawn(batch, samples, num_keys, groups, dims, dtype, scale=1.0):
    """A sample, keys and values that are views, and random groups, each in use."""
    query = torch.randn(batch, samples, 2 * dims, device=DEVICE).mul(scale).to(dtype)[..., :dims]
    packed = torch.randn(batch, num_keys, 2 * dims, device=DEVICE).to(dtype)
    slot = torch.randint(groups, (batch, num_keys), device=DEVICE)
    slot[:, torch.randperm(num_keys)[:groups]] = torch.arange(groups, device=DEVICE)
    index = (slot + groups * torch.arange(batch, device=DEVICE)[:, None]).flatten()
    return query, *packed.chunk(2, dim=-1), slot, index


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(
    'batch, samples, num_keys, groups, num_heads, head_dims',
    [
        (2, 20, 75, 13, 3, 32),
        (1, 64, 33, 32, 2, 64),
        (2, 49, 70, 1, 1, 64),
        (3, 1, 1, 1, 2, 16),
        (1, 17, 1100, 90, 1, 16),  # more than a block in each part
        (2, 5, 40, 40, 1, 24),  # nothing is merged, and heads of no power of two
    ],
)
@pytest.mark.parametrize('integer', [torch.int64, torch.int32])
def test_keys_values_and_their_counts(
    batch, samples, num_keys, groups, num_heads, head_dims, dtype, integer
):
    query, key, value, slot, index = drawn(
        batch, samples, num_keys, groups, num_heads * head_dims, dtype, 3.0
    )
    sizes = index.bincount().view(batch, groups)
    found = merge_weighed.launch(query, key, value, index.to(integer), sizes.to(integer), num_heads)
    expected = merged_one_by_one(query, key, value, slot, num_heads)
    for a, b, kind in zip(found, expected, (dtype, dtype, torch.float32), strict=True):
        assert a.dtype == kind and a.shape == b.shape and a.is_contiguous()
        # to bfloat16 the interpreter cuts off
        relative = 2**-7 if kind == torch.bfloat16 else EXACT
        torch.testing.assert_close(a.double(), b, rtol=relative, atol=relative)


@pytest.mark.parametrize('dtype', [*DTYPES, torch.float16])
def test_the_same_as_pytorch(dtype):
    """In half precision too it is only the result that is rounded."""
    query, key, value, _, index = drawn(2, 36, 120, 30, 96, dtype, 2.0)
    arguments = query, key, value, index, index.bincount().view(2, 30), 3
    found, expected = merge_weighed.launch(*arguments), merge_weighed.reference(*arguments)
    for a, b in zip(found, expected, strict=True):
        relative = {torch.bfloat16: 2**-7, torch.float16: 2**-10}.get(a.dtype, EXACT)
        torch.testing.assert_close(a, b, rtol=relative, atol=EXACT)


def test_faults_are_told_from_rounding():
    query, key, value, index, sizes, heads = merge_weighed.example(DEVICE, torch.bfloat16)
    expected = merge_weighed.reference(query, key, value, index, sizes, heads)
    for wrong in [
        (query * 0, key, value, index, sizes, heads),
        (query[:, :-1], key, value, index, sizes, heads),
        (query, key, key, index, sizes, heads),
        (query, key, value, index.roll(1), sizes, heads),
    ]:
        assert not merge_weighed.agrees(merge_weighed.reference(*wrong), expected)


@pytest.mark.filterwarnings('ignore:All-NaN', 'ignore:invalid value')
def test_nan_in_a_query_of_the_sample_is_not_hidden():
    query, key, value, index, sizes, heads = merge_weighed.example(DEVICE, torch.float32)
    query[1, 3, 5] = float('nan')
    found = merge_weighed.launch(query, key, value, index, sizes, heads)
    expected = merge_weighed.reference(query, key, value, index, sizes, heads)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert found[2][1, 0].isnan().all() and not found[2][0].isnan().any()


@pytest.mark.filterwarnings('ignore:divide by zero')
def test_a_group_that_no_query_looks_at_is_averaged_equally():
    key = torch.randn(1, 12, 16, device=DEVICE)
    key[0, 6:, 0] = -1e4
    query = torch.zeros(1, 4, 16, device=DEVICE)
    query[..., 0] = 5
    index = torch.arange(12, device=DEVICE) // 6
    _, values, bias = merge_weighed.launch(
        query, key, key, index, torch.full((1, 2), 6, device=DEVICE), 1
    )
    torch.testing.assert_close(values[:, 1], key[:, 6:].mean(1))
    assert (bias >= 0).all() and (bias.exp() <= 6.001).all()


def test_large_samples_and_heads_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr('segformer_plusplus.kernels.weighing.runs_on', lambda *_: True)
    for samples, dims, heads, taken in [
        (MOST_SAMPLES, 2 * MOST_DIMS, 2, True),
        (MOST_SAMPLES + 1, 2 * MOST_DIMS, 2, False),
        (3, 2 * MOST_DIMS, 1, False),
    ]:
        tokens = torch.empty(1, samples, dims)
        assert weighs(tokens, tokens, tokens, heads) is taken


@pytest.mark.parametrize('kernel', [_look, _add, _average], ids=lambda each: each.fn.__name__)
def test_it_compiles_without_spilling(kernel):
    variants = []
    for kind in ('*fp32', '*fp16', '*bf16'):
        types = dict.fromkeys(('query', 'key', 'value', 'keys', 'values'), kind)
        types |= dict.fromkeys(('seen', 'sums', 'paid', 'bias'), '*fp32')
        types |= dict(index='*i64', sizes='*i64', scale='fp32', least='fp32')
        constants = dict(stride_qc=1, stride_kc=1, stride_vc=1, stride_sm=1, SAMPLES=MOST_SAMPLES)
        constants |= dict(DIMS=MOST_DIMS, PARTS=PARTS, KEYS=KEYS, INTERPRETED=False)
        known = {name: value for name, value in constants.items() if name in kernel.arg_names}
        variants.append((types, known, {}))
    check_compiled(kernel, variants)
