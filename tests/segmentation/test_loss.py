"""The cross entropy in strips against mmseg's of the resized logits, and what it keeps."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.losses import CrossEntropyLoss
from mmseg.structures import SegDataSample

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.segmentation import (
    SegformerHeadPlusPlus,
    SegformerLinearHead,
    heads as heads_module,
    loss as loss_module,
)

CROSS_ENTROPY = dict(type='CrossEntropyLoss', loss_weight=0.7)
WEIGHTS = [0.2, 1.5, 1.0, 3.0, 0.7]


def build(kind=SegformerHeadPlusPlus, **kwargs):
    settings = dict(
        in_channels=[4, 4], in_index=[0, 1], channels=8, num_classes=5, align_corners=False,
        loss_decode=CROSS_ENTROPY,
    )  # fmt: skip
    return kind(**settings | kwargs)


def draw(size, shape=(9, 12), labelled=0.7, ignored=255, dtype=torch.float32):
    logits = 3 * torch.randn(2, 5, *shape, dtype=dtype)
    labels = torch.randint(0, 5, (2, 1, *size))
    labels[torch.rand(labels.shape) >= labelled] = ignored
    return logits.requires_grad_(), labels


def losses(head, logits, labels):
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    return head.loss_by_feat(logits, samples)


def expected(module, logits, labels, ignored=255):
    """mmseg's loss of logits that are resized as a whole, the accuracy, and the gradient."""
    labels = labels.squeeze(1)
    resized = F.interpolate(logits, labels.shape[1:], mode='bilinear', align_corners=False)
    loss = module(resized, labels, ignore_index=ignored)
    counted = labels != ignored
    accuracy = 100 * (resized.argmax(dim=1) == labels)[counted].double().mean()
    return loss, accuracy, torch.autograd.grad(3 * loss, logits)[0]


def close(actual, wanted, tolerance=1e-6):
    return (actual.double() - wanted.double()).abs().max() <= tolerance * wanted.abs().max()


@pytest.fixture(params=[1, 700, 2**20], ids='limit {}'.format)
def strips(request, monkeypatch):
    """Strips of one row, of a few that do not divide the image, and of all."""
    monkeypatch.setattr(loss_module, 'STRIP', {'cpu': request.param})


@pytest.fixture
def taken(monkeypatch):
    calls = []

    def counting(*args):
        calls.append(args)
        return loss_module.strip_losses(*args)

    monkeypatch.setattr(heads_module, 'strip_losses', counting)
    return calls


@pytest.mark.parametrize('size', [(36, 48), (33, 40), (7, 5), (9, 12), (1, 1)], ids=str)
@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        dict(loss_decode=dict(CROSS_ENTROPY, avg_non_ignore=True)),
        dict(loss_decode=dict(CROSS_ENTROPY, class_weight=WEIGHTS)),
        dict(loss_decode=[dict(CROSS_ENTROPY, loss_name='loss_own')], ignore_index=2),
    ],
    ids=['default', 'avg_non_ignore', 'class_weight', 'ignore_index and a name'],
)
def test_equal_to_that_of_resized_logits(size, kwargs, strips, taken):
    head, ignored = build(**kwargs), kwargs.get('ignore_index', 255)
    logits, labels = draw(size, ignored=ignored)
    labels[0, 0, 0, 0] = 1  # never is all ignored
    module = head.loss_decode
    module = module[0] if isinstance(module, torch.nn.ModuleList) else module
    loss, accuracy, gradient = expected(module, logits, labels, ignored)
    actual = losses(head, logits, labels)
    assert len(taken) == 1 and list(actual) == [module.loss_name, 'acc_seg']
    (3 * actual[module.loss_name]).backward()
    assert close(actual[module.loss_name], loss)
    one_pixel = 101 / (labels != ignored).sum()  # may have two largest logits, but for rounding
    assert abs(actual['acc_seg'] - accuracy) < one_pixel and actual['acc_seg'].shape == (1,)
    assert close(logits.grad, gradient, 1e-5)  # places between rows are rounded in float32


@pytest.mark.parametrize('kind', [SegformerHeadPlusPlus, SegformerLinearHead])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
def test_in_double_precision_and_any_layout(layout, kind, strips, taken):
    head = build(kind)
    logits, labels = draw((36, 41), dtype=torch.float64)
    leaf = logits.detach().contiguous(memory_format=layout).requires_grad_()
    loss, _, gradient = expected(head.loss_decode, logits, labels)
    actual = losses(head, leaf, labels)['loss_ce']
    (3 * actual).backward()
    assert actual.dtype == torch.float64 and len(taken) == 1
    assert close(actual, loss, 1e-12) and close(leaf.grad, gradient, 1e-12)


@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype, amp, strips):
    """Even a gradient that is scaled later does not vanish."""
    head = build()
    logits, labels = draw((36, 48))
    half = logits.detach().to(dtype).requires_grad_()
    exact = half.detach().float().requires_grad_()
    with torch.autocast('cpu', dtype=dtype, enabled=amp):
        actual = losses(head, half, labels)['loss_ce']
    loss, _, gradient = expected(head.loss_decode, exact, labels)
    assert actual.dtype == torch.float32 and close(actual, loss)
    (3 * actual).backward()
    assert half.grad.dtype == dtype
    assert close(half.grad.float(), gradient, torch.finfo(dtype).eps)
    half.grad = None
    tiny = 2.0**-24  # of float16; a scaled loss would bring the gradient back
    small = losses(head, half, labels)['loss_ce'] * tiny
    (small / tiny * 3).backward()
    assert close(half.grad.float(), gradient, torch.finfo(dtype).eps)


def test_nothing_is_labelled():
    head = build()
    logits, labels = draw((36, 48), labelled=0.0)
    actual = losses(head, logits, labels)
    actual['loss_ce'].backward()
    assert actual['loss_ce'] == 0 and not logits.grad.any()


def test_without_gradients_none_is_computed(monkeypatch):
    head, (logits, labels) = build(), draw((36, 48))
    with_gradient = losses(head, logits, labels)
    monkeypatch.setattr(torch.autograd, 'grad', None)
    with torch.no_grad():
        without = losses(head, logits, labels)
    frozen = losses(head, logits.detach(), labels)
    for name, value in with_gradient.items():
        assert torch.equal(without[name], value) and torch.equal(frozen[name], value)
        assert not without[name].requires_grad and not frozen[name].requires_grad


def test_a_graph_may_be_run_twice_but_not_derived_twice():
    logits, labels = draw((36, 48))
    loss = losses(build(), logits, labels)['loss_ce']
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    with pytest.raises(SegformerPlusPlusError, match='second derivative'):
        torch.autograd.grad(loss, logits, create_graph=True)


class OwnLoss(CrossEntropyLoss):
    pass


def hooked(head):
    head.loss_decode.register_forward_hook(lambda *_: None)


def replaced(head):
    head.loss_decode = OwnLoss()


@pytest.mark.parametrize(
    ('kwargs', 'change'),
    [
        (dict(loss_decode=[CROSS_ENTROPY, dict(type='DiceLoss')]), None),
        (dict(loss_decode=[CROSS_ENTROPY, CROSS_ENTROPY]), None),
        (dict(loss_decode=dict(type='DiceLoss')), None),
        (dict(loss_decode=dict(CROSS_ENTROPY, reduction='sum')), None),
        (dict(sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=20)), None),
        (dict(align_corners=True), None),
        ({}, hooked),
        ({}, replaced),
    ],
    ids=['two', 'one name twice', 'Dice', 'sum', 'sampler', 'corners', 'hook', 'subclass'],
)
def test_whatever_else_takes_the_whole(kwargs, change, taken):
    head = build(**kwargs)
    if change is not None:
        change(head)
    logits, labels = draw((36, 48))
    assert losses(head, logits, labels)['acc_seg'].shape == (1,)
    assert not taken


def test_a_label_without_a_class_is_an_error():
    logits, labels = draw((36, 48))
    labels[1, 0, 20, 20] = 5
    with pytest.raises((IndexError, RuntimeError), match='out of bounds'):
        losses(build(), logits, labels)


def test_nothing_of_full_size_is_kept():
    logits, labels = draw((128, 128), shape=(32, 32))
    kept = []

    def pack(tensor):
        kept.append(weakref.ref(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = losses(build(), logits, labels)['loss_ce']
    alive = [tensor for each in kept if (tensor := each()) is not None]
    assert loss.requires_grad
    assert logits.nbytes <= sum(tensor.nbytes for tensor in alive) < 1.1 * logits.nbytes


def test_a_compiler_sees_the_whole(taken):
    head = build()
    logits, labels = draw((36, 48))
    eager = losses(head, logits, labels)['loss_ce']
    assert len(taken) == 1
    compiled = torch.compile(lambda: losses(head, logits, labels)['loss_ce'], backend='eager')
    torch.testing.assert_close(compiled(), eager)
    assert len(taken) == 1
