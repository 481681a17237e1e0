"""Attention with a bias per key in one pass, against a softmax over all scores."""

import pytest

pytest.importorskip('triton')

import torch

from segformer_plusplus.kernels.attention import (
    HEAD_DIMS,
    KEYS,
    LOG2_E,
    QUERIES,
    _attention,
    attends,
    attention,
)
from segformer_plusplus.kernels.runtime import HALF

from .gpu import DEVICE, check_compiled

KINDS = [*HALF] if DEVICE.type == 'cuda' else [torch.float32, *HALF]
"""In float32 a GPU is left to PyTorch; in the interpreter it says more than the others."""

ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Is that of weights and output; to bfloat16 the interpreter cuts off instead."""


def attended(query, key, value, bias, num_heads):
    """Softmax over all keys, in float64."""
    q, k, v = (
        t.double().unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (query, key, value)
    )
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias[:, :, None].double()
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def is_near(found, expected):
    return (found - expected).abs().max() < ROUNDING[found.dtype] * expected.abs().max()


def tokens(batch, num_tokens, dims, dtype, parts=1):
    """Views of one packed projection, as the model's keys and values are."""
    packed = torch.randn(batch, num_tokens, parts * dims, device=DEVICE).to(dtype)
    return packed.chunk(parts, dim=-1)


def sizes(*shape):
    return torch.randint(1, 300, shape, device=DEVICE).float().log()


@pytest.mark.parametrize('dtype', KINDS)
@pytest.mark.parametrize(
    'batch, num_heads, head_dims, num_queries, num_keys, biases',
    [
        (2, 3, 32, 70, 51, (2, 3)),
        (2, 2, 64, 129, 65, (2, 1)),
        (2, 2, 32, 5, 64, (1, 1)),
        (1, 5, 64, 1, 200, (1, 5)),
        (2, 2, 16, 128, 1, (1, 2)),
        (1, 1, 128, 33, 130, (1, 1)),
    ],
)
def test_it_is_the_softmax_over_all_keys(
    batch, num_heads, head_dims, num_queries, num_keys, biases, dtype
):
    dims = num_heads * head_dims
    [query, _] = tokens(batch, num_queries, dims, dtype, 2)
    key, value = tokens(batch, num_keys, dims, dtype, 2)
    bias = sizes(*biases, num_keys)
    found = attention.launch(query * 3, key, value, bias, num_heads)
    expected = attended(query * 3, key, value, bias, num_heads)
    assert found.shape == expected.shape and found.is_contiguous() and found.dtype == dtype
    assert is_near(found, expected)


def test_views_are_taken_as_they_lie():
    query = tokens(2, 140, 64, KINDS[0])[0].transpose(0, 1).contiguous().transpose(0, 1)[:, ::2]
    key = tokens(2, 64, 67, KINDS[0])[0].transpose(1, 2)
    value = tokens(1, 67, 64, KINDS[0])[0].expand(2, -1, -1)
    bias = sizes(67, 2).t()[None]
    found = attention.launch(query, key, value, bias, 2)
    assert is_near(found, attended(query, key, value, bias, 2))


def test_a_bias_in_half_precision():
    key, value = tokens(2, 40, 64, torch.bfloat16, 2)
    bias = sizes(1, 1, 40).bfloat16()
    found = attention.launch(key, key, value, bias, 2)
    assert is_near(found, attended(key, key, value, bias, 2))


def test_faults_are_told_from_rounding():
    query, key, value, bias, heads = attention.example(DEVICE, torch.bfloat16)
    expected = attention.reference(query, key, value, bias, heads)
    for wrong in [
        (query, key, value, bias * 0.8, heads),
        (query, key.roll(1, 1), value, bias, heads),
        (query * 0.9, key, value, bias, heads),
        (query, key[:, :-1], value[:, :-1], bias[..., :-1], heads),
    ]:
        assert not attention.agrees(attention.reference(*wrong), expected)


@pytest.mark.parametrize('scale', [0, 1e3])
def test_equal_and_enormous_scores_give_no_nan(scale):
    query, key, value = tokens(1, 70, 32, KINDS[0], 3)
    bias = sizes(1, 1, 70)
    found = attention.launch(query * scale, key, value, bias, 1)
    expected = attended(query * scale, key, value, bias, 1)
    assert (found - expected).abs().max() < 5e-3


def test_only_heads_and_types_that_it_knows_are_taken(monkeypatch):
    seen = []
    module = 'segformer_plusplus.kernels.attention.runs_on'
    monkeypatch.setattr(module, lambda *each, dtypes: seen.append(dtypes) or True)
    query = torch.empty(1, 2, 192)
    assert [heads for heads in (1, 2, 3, 4, 6, 12) if attends(query, query, query, heads)] == [
        3,
        6,
        12,
    ]
    assert set(seen) == {HALF}


def test_it_compiles_without_spilling():
    contiguous = dict(stride_qc=1, stride_kc=1, stride_vc=1, stride_bm=1)
    variants = [
        (
            dict(query=kind, key=kind, value=kind, out=kind, bias='*fp32', scale='fp32'),
            dict(
                contiguous, stride_qn=5 * dims, stride_km=10 * dims, stride_vm=10 * dims,
                DIMS=dims, QUERIES=QUERIES, KEYS=KEYS, LOG2_E=LOG2_E, INTERPRETED=False,
            ),
            dict(num_warps=8, num_stages=3),
        )
        for kind in ('*fp16', '*bf16')
        for dims in HEAD_DIMS
    ]  # fmt: skip
    check_compiled(_attention, variants)
