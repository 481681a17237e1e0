"""Labels in one pass, against a resize of all logits."""

import pytest

pytest.importorskip('triton')

import torch
import torch.nn.functional as F

from segformer_plusplus.kernels.labels import WIDTH, _resized_argmax, resized_argmax

from .gpu import DEVICE, DTYPES, check_compiled


def resized(logits, size):
    return F.interpolate(logits.double(), size, mode='bilinear', align_corners=False)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    'shape, size',
    [
        ((2, 19, 8, 12), (32, 48)),
        ((1, 19, 7, 5), (33, 47)),
        ((3, 2, 5, 6), (5, 6)),
        ((1, 300, 3, 4), (12, 13)),  # more classes than a byte counts
        ((1, 7, 1, 1), (4, 5)),
        ((1, 5, 16, 16), (7, 9)),  # smaller
        ((1, 3, 2, 200), (4, 800)),  # wider than a program
    ],
)
def test_labels_are_those_of_the_resized_logits(shape, size, layout, dtype):
    logits = torch.randn(shape, device=DEVICE).to(dtype).contiguous(memory_format=layout)
    found = resized_argmax.launch(logits, *size)
    expected = resized(logits, size)
    assert found.shape == (shape[0], *size)
    assert found.dtype == torch.long
    # where the label differs, the two classes are equal to rounding
    chosen = expected.gather(1, found[:, None])[:, 0]
    assert (expected.amax(1) - chosen).max() < 1e-5
    assert (found == expected.argmax(1)).float().mean() > 0.999


def test_the_first_of_equal_classes_is_taken():
    logits = torch.zeros(1, 4, 3, 3, device=DEVICE)
    logits[:, 1:3] = 1
    assert resized_argmax.launch(logits, 12, 12).eq(1).all()


def test_nan_is_the_largest_as_for_pytorch():
    logits = torch.randn(1, 6, 4, 4, device=DEVICE)
    logits[0, 3, 1, 2] = logits[0, 4, 1, 2] = float('nan')
    logits[0, 5, 0, 0] = -float('inf')
    found, expected = (
        resized_argmax.launch(logits, 4, 4),
        F.interpolate(logits, (4, 4), mode='bilinear').argmax(1),
    )
    assert torch.equal(found[0, 1, 2], expected[0, 1, 2])


def test_it_compiles_without_spilling():
    variants = [
        (dict(logits=kind, labels='*i64', ratio_y='fp32', ratio_x='fp32'), dict(WIDTH=WIDTH), {})
        for kind in ('*fp32', '*fp16', '*bf16')
    ]
    check_compiled(_resized_argmax, variants)
