"""Logits of a pyramid in one pass, against resizes and a convolution in float64."""

import pytest

pytest.importorskip('triton')

import torch
import torch.nn.functional as F

from segformer_plusplus.kernels.fusion import PIXELS, _fused_logits, fused_logits

from .gpu import DEVICE, DTYPES, check_compiled


def make(grids, channels, classes, dtype=torch.float32, batch=2):
    def random(*shape):
        return torch.randn(shape, device=DEVICE).to(dtype)

    levels = [random(batch, *grid, channels) for grid in grids]
    return levels, random(channels), random(classes, channels), random(classes)


def logits_of(levels, bias, weight, offset, relu=True):
    """The same in float64, as images."""
    images = [level.double().permute(0, 3, 1, 2) for level in levels]
    total = sum(F.interpolate(x, images[0].shape[2:], mode='bilinear') for x in images)
    if bias is not None:
        total = total + bias.double()[:, None, None]
    total = total.relu() if relu else total
    offset = None if offset is None else offset.double()
    return F.conv2d(total, weight.double()[:, :, None, None], offset).permute(0, 2, 3, 1)


def relative_error(found, expected):
    assert found.shape == expected.shape
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(
    'grids, channels, classes',
    [
        ([(8, 12), (4, 6), (2, 3), (1, 2)], 64, 19),
        ([(7, 5), (4, 3), (2, 2), (1, 1)], 40, 19),
        ([(3, PIXELS + 5), (2, 19), (1, 10), (1, 5)], 16, 150),
        ([(5, 6), (9, 4), (5, 6), (2, 13)], 24, 1),  # larger, equal, other proportions
        ([(6, 5), (3, 3), (2, 2)], 130, 7),
        ([(4, 4), (2, 2)], 8, 256),
        ([(1, 1)], 48, 3),
    ],
)
def test_logits_are_those_of_the_resized_sum(grids, channels, classes, dtype):
    arguments = make(grids, channels, classes, dtype)
    found = fused_logits.launch(*arguments, True)
    assert found.dtype == dtype and found.is_contiguous()
    limit = 1e-5 if dtype == torch.float32 else 3e-2
    assert relative_error(found, logits_of(*arguments)) < limit


@pytest.mark.parametrize('relu', [True, False])
@pytest.mark.parametrize('biases', [(True, False), (False, True), (False, False)])
def test_biases_and_relu_may_be_missing(biases, relu):
    levels, bias, weight, offset = make([(5, 7), (3, 4)], 24, 5)
    bias, offset = (b if there else None for b, there in zip((bias, offset), biases, strict=True))
    found = fused_logits.launch(levels, bias, weight, offset, relu)
    expected = logits_of(levels, bias, weight, offset, relu)
    assert relative_error(found, expected) < 1e-5
    torch.testing.assert_close(
        fused_logits.reference(levels, bias, weight, offset, relu), expected.float()
    )


def test_views_give_the_same():
    levels, bias, weight, offset = make([(6, 5), (3, 3)], 24, 5)
    views = [each.mT.contiguous().mT for each in (*levels, weight)]
    views += [each.repeat_interleave(2)[::2] for each in (bias, offset)]
    found = fused_logits.launch(views[:2], views[3], views[2], views[4], True)
    assert torch.equal(found, fused_logits.launch(levels, bias, weight, offset, True))


def test_zeros_are_the_offset_and_nan_stays_where_it_is():
    levels, bias, weight, offset = make([(4, 8), (2, 4)], 24, 5, batch=1)
    zeros = [torch.zeros_like(level) for level in levels]
    found = fused_logits.launch(zeros, None, weight, offset, True)
    assert torch.equal(found, offset.expand_as(found))
    levels[0][0, 2, 3, 7] = float('nan')
    wrong = fused_logits.launch(levels, bias, weight, offset, True).isnan().any(-1)
    assert wrong[0, 2, 3] and wrong.sum() == 1


def test_the_example_tells_a_wrong_result():
    arguments = fused_logits.example(DEVICE, torch.float32)
    right = fused_logits.reference(*arguments)
    levels, bias, weight, offset, _ = arguments
    for wrong in (
        (levels, bias, weight, offset, False),
        (levels, None, weight, offset, True),
        (levels, bias, weight, None, True),
        (levels[:3], bias, weight, offset, True),
        ([*levels[:3], levels[3].roll(1, dims=2)], bias, weight, offset, True),
    ):
        assert not fused_logits.agrees(fused_logits.reference(*wrong), right)


def test_it_compiles_without_spilling():
    tensors = 'first', 'second', 'third', 'fourth', 'bias', 'weight', 'offset', 'logits'
    ratios = {f'ratio_{axis}{level}': 'fp32' for axis in 'yx' for level in (2, 3, 4)}
    variants = [
        (
            dict.fromkeys(tensors, kind) | ratios,
            dict(RELU=True, C=channels, PIXELS=PIXELS, BLOCK=block, K=classes, UPCAST=False),
            dict(num_warps=8 if classes > 64 else 4, num_stages=1),
        )
        for kind, block in (('*fp32', 32), ('*bf16', 64))
        for channels, classes in ((256, 256), (768, 32), (768, 64))
    ]
    # what is missing, and sizes of 1, are no numbers for the compiler
    few = dict.fromkeys(('third', 'fourth', 'bias', 'offset'))
    few |= dict.fromkeys(('height', 'width', 'height_2', 'width_2', 'classes'), 1)
    types = {name: kind for name, kind in variants[0][0].items() if name not in few}
    variants.append((types, variants[0][1] | few, variants[0][2]))
    check_compiled(_fused_logits, variants)
