"""Sum and norm in one pass, against both one after the other in float64."""

import pytest

pytest.importorskip('triton')

import torch
import torch.nn.functional as F

from segformer_plusplus.kernels.residual import ELEMENTS, WIDEST, _add_norm, add_norm

from .gpu import DEVICE, DTYPES, check_compiled


def random(*shape, dtype=torch.float32):
    return torch.randn(shape, device=DEVICE).to(dtype)


def check(tokens, update, index, eps=1e-6):
    """Compares with float64, the norm with that of the sum as it was rounded."""
    channels, dtype = tokens.shape[2], tokens.dtype
    weight, bias = random(channels, dtype=dtype), random(channels, dtype=dtype)
    total, normed = add_norm.launch(tokens, update, index, weight, bias, eps)
    added = update.double()
    if index is not None:
        added = added.reshape(-1, channels)[index].view(tokens.shape)
    expected = tokens.double() + added
    rounding = 1e-6 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(total.double(), expected, rtol=rounding, atol=rounding)
    parameters = weight.double(), bias.double(), eps
    expected = F.layer_norm(total.double(), (channels,), *parameters)
    torch.testing.assert_close(normed.double(), expected, rtol=rounding, atol=2 * rounding)
    for each in (total, normed):
        assert (each.shape, each.dtype, each.is_contiguous()) == (tokens.shape, dtype, True)


SHAPES = [
    (2, 37, 48),
    (1, 1, 32),
    (3, 5, 160),
    (2, 3, 320),
    (1, 7, 1),
    (1, 130, 33),
    (1, 2, WIDEST),
]


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('shape', SHAPES)
def test_it_is_sum_and_norm(shape, dtype):
    check(random(*shape, dtype=dtype), random(*shape, dtype=dtype), None)


@pytest.mark.parametrize('eps', [1e-5, 0.3])
def test_the_norm_has_its_eps(eps):
    check(random(2, 5, 24), random(2, 5, 24), None, eps)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('merged', [1, 9])
def test_an_index_unmerges_what_is_added(shape, merged, dtype):
    batch, count, channels = shape
    update = random(batch, merged, channels, dtype=dtype)
    index = torch.randint(0, batch * merged, (batch * count,), device=DEVICE)
    check(random(*shape, dtype=dtype), update, index)


def test_any_layout_is_read():
    wide, image = random(2, 9, 40), random(2, 24, 9)
    for tokens in (wide[:, :, 8:32], image.transpose(1, 2), image[:1].transpose(1, 2)):
        batch = len(tokens)
        check(tokens, image[:batch].transpose(1, 2), None)
        check(tokens, wide[:batch, :5, 8:32], torch.randint(0, 5 * batch, (9 * batch,)).to(DEVICE))


def test_the_sum_is_rounded_before_it_is_normed():
    """What the half precision drops of the sum, 1 of 512, is no part of the norm."""
    tokens = torch.full((1, 1, 16), 512.0, device=DEVICE, dtype=torch.bfloat16)
    update = torch.tensor([0.0, 1.0], device=DEVICE, dtype=torch.bfloat16).repeat(8).view(1, 1, 16)
    weight, bias = torch.ones_like(tokens[0, 0]), torch.zeros_like(tokens[0, 0])
    _, normed = add_norm.launch(tokens, update, None, weight, bias, 1e-6)
    assert normed.abs().max() == 0


@pytest.mark.parametrize('value', [0.0, 3.0])
def test_equal_channels_are_normed_to_the_bias(value):
    tokens = torch.full((1, 3, 48), value, device=DEVICE)
    weight, bias = random(48), random(48)
    total, normed = add_norm.launch(tokens, tokens, None, weight, bias, 1e-6)
    assert (total == 2 * value).all()
    torch.testing.assert_close(normed, bias.expand(1, 3, 48))


def test_more_channels_than_a_program_norms():
    tokens, weight = random(1, 2, WIDEST + 1), random(WIDEST + 1)
    with pytest.raises(ValueError, match='1025'):
        add_norm.launch(tokens, tokens, None, weight, weight, 1e-6)


def test_it_compiles_without_spilling():
    pointers = 'tokens', 'update', 'weight', 'bias', 'total', 'normed'
    variants = [
        (
            dict(dict.fromkeys(pointers, kind), eps='fp32', **kinds),
            dict(index, stride_t=channels, stride_tc=1, stride_u=channels, stride_uc=1)
            | dict(channels=channels, ROWS=ELEMENTS // block, BLOCK=block),
            dict(num_warps=4),
        )
        for kind in ('*bf16', '*fp32')
        for channels, block in ((64, 64), (320, 512), (512, 512), (WIDEST, WIDEST))
        for kinds, index in ((dict(index='*i64'), {}), ({}, dict(index=None)))
    ]
    check_compiled(_add_norm, variants)
