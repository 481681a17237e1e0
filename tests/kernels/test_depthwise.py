"""Convolution and GELU in one pass, against both in float64."""

import pytest

pytest.importorskip('triton')

import torch
import torch.nn.functional as F

from segformer_plusplus.kernels.depthwise import (
    CHANNELS,
    COLUMNS,
    ROWS,
    _depthwise_gelu,
    _gelu,
    depthwise_gelu,
)
from segformer_plusplus.kernels.runtime import jit, tl

from .gpu import DEVICE, DTYPES, check_compiled


def convolved(hidden, weight, bias):
    image = hidden.double().permute(0, 3, 1, 2)
    bias = None if bias is None else bias.double()
    image = F.conv2d(image, weight.double(), bias, padding=1, groups=len(weight))
    return F.gelu(image).permute(0, 2, 3, 1)


def random(*shape, dtype=torch.float32):
    return torch.randn(shape, device=DEVICE).to(dtype)


def difference(found, expected):
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('biased', [True, False])
@pytest.mark.parametrize(
    'shape',
    [
        (2, 9, 20, 48),
        (1, 17, 7, 160),  # one row more than two programs have
        (2, 8, 8, 128),  # one program an image
        (1, 1, 1, 16),
        (1, 1, 19, 33),
        (2, 19, 1, 7),
        (1, 2, 3, 1),
        (1, 7, 9, 257),
    ],
)
def test_it_is_convolution_and_gelu(shape, biased, dtype):
    channels = shape[3]
    hidden, weight = random(*shape, dtype=dtype), random(channels, 1, 3, 3, dtype=dtype)
    bias = random(channels, dtype=dtype) if biased else None
    found = depthwise_gelu.launch(hidden, weight, bias)
    assert (found.shape, found.dtype, found.is_contiguous()) == (shape, dtype, True)
    limit = 2e-6 if dtype == torch.float32 else 2**-7
    assert difference(found, convolved(hidden, weight, bias)) < limit


@pytest.mark.parametrize('row', range(3))
@pytest.mark.parametrize('column', range(3))
def test_every_weight_is_in_its_place(row, column):
    hidden, weight = random(1, 10, 11, 5), torch.zeros(5, 1, 3, 3, device=DEVICE)
    weight[:, 0, row, column] = 1
    found = depthwise_gelu.launch(hidden, weight, None)
    shifted = F.pad(hidden, (0, 0, 1, 1, 1, 1))[:, row : row + 10, column : column + 11]
    torch.testing.assert_close(found, F.gelu(shifted))


def test_any_layout_is_read_as_it_is():
    image, weight = random(2, 24, 9, 10), random(24, 1, 3, 3)
    wide = random(2, 9, 10, 40)
    for hidden in (image.permute(0, 2, 3, 1), wide[..., 8:32], wide[:, 1:, ::2, :24]):
        assert not hidden.is_contiguous()
        found = depthwise_gelu.launch(hidden, weight, None)
        assert difference(found, convolved(hidden, weight, None)) < 2e-6


def test_infinite_values_stay_with_their_neighbours():
    hidden, weight = random(1, 9, 9, 2), random(2, 1, 3, 3).abs()
    hidden[0, 4, 4] = torch.tensor([float('inf'), float('nan')])
    found, expected = depthwise_gelu.launch(hidden, weight, None), convolved(hidden, weight, None)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert found[..., 0].isposinf().sum() == 9 and found[..., 1].isnan().sum() == 9


@jit
def _activate(values, result, COUNT: tl.constexpr):
    place = tl.arange(0, COUNT)
    tl.store(result + place, _gelu(tl.load(values + place)))


def test_gelu_is_the_exact_one():
    values = torch.linspace(-12, 12, 8192, device=DEVICE)
    values[:4] = torch.tensor([0.0, 1e4, -1e15, 1e15])
    found = torch.empty_like(values)
    _activate[(1,)](values, found, len(values))
    error = (found.double() - F.gelu(values.double())).abs() / values.abs().clamp(min=1e-3)
    assert error.max() < 4e-7
    wrong = F.gelu(values.double(), approximate='tanh')
    assert (wrong - F.gelu(values.double())).abs().max() > 1e-4  # which the test would notice


def test_it_compiles_without_spilling():
    block = dict(ROWS=ROWS, COLUMNS=COLUMNS, CHANNELS=CHANNELS)
    variants = []
    for kind, shape in (('*bf16', (256, 512, 256)), ('*fp32', (64, 128, 1280))):
        sizes = dict(zip(('height', 'width', 'channels'), shape, strict=True))
        strides = dict(stride_y=shape[1] * shape[2], stride_x=shape[2], stride_c=1)
        types = dict.fromkeys(('hidden', 'weight', 'bias', 'result'), kind)
        variants.append((types, sizes | strides | block, dict(num_warps=4)))
    # any shape and layout, and no bias
    types = dict.fromkeys(('hidden', 'weight', 'result'), '*fp16')
    variants.append((types, dict(block, bias=None), dict(num_warps=4)))
    check_compiled(_depthwise_gelu, variants)
