"""Labels straight from low-resolution logits, against resizing all logits."""

import pytest

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (must precede mmseg)

# isort: split
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample

from segformer_plusplus.segmentation import EncoderDecoderPlusPlus, segmentor as labels
from segformer_plusplus.segmentation.segmentor import label_map


def plain(logits, size):
    return F.interpolate(logits, size, mode='bilinear', align_corners=False).argmax(dim=1)


def smooth(batch, classes, height, width):
    """Logits with large areas of one class, as trained models give them."""
    coarse = torch.randn(batch, classes, max(height // 8, 2), max(width // 8, 2))
    return F.interpolate(coarse, (height, width), mode='bicubic')


@pytest.mark.parametrize('kind', [torch.randn, smooth], ids=['noise', 'smooth'])
@pytest.mark.parametrize('ratio', [1, 2, 3, 4, 8])
@pytest.mark.parametrize('shape', [(1, 19, 16, 24), (2, 150, 9, 7), (3, 2, 1, 1), (1, 5, 1, 8)])
def test_equal_to_resizing_the_logits(kind, ratio, shape):
    batch, classes, height, width = shape
    logits = kind(*shape).double()  # no ties by rounding
    size = (ratio * height, ratio * width)
    actual = label_map(logits, size)
    assert actual.dtype == torch.int64
    assert torch.equal(actual, plain(logits, size))


@pytest.mark.parametrize('classes', [256, 257])
def test_more_classes_than_a_byte_holds(classes):
    logits = torch.randn(1, classes, 4, 6).double()
    logits[:, -1, 1:3, 2:5] += 9
    actual = label_map(logits, (16, 24))
    assert torch.equal(actual, plain(logits, (16, 24))) and actual.max() == classes - 1


@pytest.mark.parametrize('size', [(65, 96), (64, 95), (30, 40), (64, 192)])
def test_sizes_without_one_even_ratio_are_resized(size):
    logits = torch.randn(1, 5, 16, 24)
    assert torch.equal(label_map(logits, size), plain(logits, size))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_differs_only_where_classes_tie(dtype):
    logits = smooth(2, 19, 64, 64).to(dtype)
    actual = label_map(logits, (256, 256))
    resized = F.interpolate(logits.double(), (256, 256), mode='bilinear', align_corners=False)
    best = resized.max(dim=1).values
    chosen = resized.gather(1, actual[:, None])[:, 0]
    assert (best - chosen).max() < (1e-5 if dtype == torch.float32 else 0.1)
    assert (actual != resized.argmax(dim=1)).double().mean() < 1e-2


def test_cells_are_worked_on_in_parts(monkeypatch):
    monkeypatch.setattr(labels, 'CELLS', 7)
    logits = torch.randn(2, 5, 9, 8).double()
    assert torch.equal(label_map(logits, (36, 32)), plain(logits, (36, 32)))


def test_uniform_logits_need_no_interpolation(monkeypatch):
    seen = []
    monkeypatch.setattr(labels, '_fill_borders', lambda cells, border, _: seen.append(border.sum()))
    logits = torch.zeros(1, 3, 8, 6)
    logits[:, 1] = 1
    assert (label_map(logits, (32, 24)) == 1).all() and seen == [0]


# The segmentor -----------------------------------------------------------------------------------


HEAD = dict(
    type='SegformerHeadPlusPlus', in_channels=[32, 64, 160, 256], in_index=[0, 1, 2, 3],
    channels=16, num_classes=5, norm_cfg=dict(type='BN'), align_corners=False,
)  # fmt: skip


def build(kind=EncoderDecoderPlusPlus, **kwargs):
    init_default_scope('mmseg')
    settings = dict(
        data_preprocessor=dict(type='SegDataPreProcessor'),
        backbone=dict(type='MixVisionTransformerPlusPlus', arch='b0'),
        decode_head=HEAD,
        test_cfg=dict(mode='whole'),
    )
    torch.manual_seed(0)
    return kind(**ConfigDict({**settings, **kwargs})).eval()


def sample(shape=(64, 96), **meta):
    shapes = dict(ori_shape=shape, img_shape=shape, pad_shape=shape, padding_size=[0, 0, 0, 0])
    return SegDataSample(metainfo={**shapes, **meta})


def predict(model, images, samples):
    with torch.no_grad():
        return model.predict(images, samples)


@pytest.mark.parametrize('given', [False, True])
def test_segmentor_predicts_mmsegs_labels(given):
    ours, theirs = build(), build(EncoderDecoder)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 96)
    results = [
        predict(model, images, [sample(), sample()] if given else None) for model in (ours, theirs)
    ]
    for one, other in zip(*results, strict=True):
        assert one.pred_sem_seg.data.shape == other.pred_sem_seg.data.shape
        assert one.pred_sem_seg.data.dtype == other.pred_sem_seg.data.dtype
        different = one.pred_sem_seg.data != other.pred_sem_seg.data
        assert different.float().mean() < 1e-3  # ties
        assert 'seg_logits' not in one and 'seg_logits' in other


@pytest.mark.parametrize(
    'meta',
    [
        dict(flip=True, flip_direction='horizontal'),
        dict(ori_shape=(32, 48)),
        dict(img_padding_size=[0, 8, 0, 4], ori_shape=(60, 88), img_shape=(60, 88)),
    ],
    ids=['flipped', 'resized', 'padded'],
)
def test_logits_are_resized_where_they_are_needed(meta):
    model = build()
    images = torch.randn(1, 3, 64, 96)
    (result,) = predict(model, images, [sample(**meta)])
    assert 'seg_logits' in result
    model.labels_only = False
    (expected,) = predict(model, images, [sample(**meta)])
    assert torch.equal(result.pred_sem_seg.data, expected.pred_sem_seg.data)


@pytest.mark.parametrize(
    'settings',
    [
        dict(labels_only=False),
        dict(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(32, 32))),
        dict(decode_head=dict(HEAD, align_corners=True)),
        dict(decode_head=dict(HEAD, num_classes=2, out_channels=1, threshold=0.3)),
    ],
    ids=['asked', 'slide', 'aligned', 'one logit'],
)
def test_who_wants_logits_gets_them(settings):
    model = build(**settings)
    (result,) = predict(model, torch.randn(1, 3, 64, 96), [sample()])
    assert result.seg_logits.data.shape == (model.out_channels, 64, 96)


def test_a_gpu_gets_labels_without_waiting_for_it(no_gpu, monkeypatch):
    """No launch for each part of the borders, no number that the host has to know."""
    model = torch.nn.Module()
    model.align_corners, model.out_channels, model.decode_head = False, 19, None
    monkeypatch.setattr(labels, 'label_map', None)
    with no_gpu:
        logits = torch.empty(2, 19, 16, 24, device='cuda')
        found = EncoderDecoderPlusPlus.labels_of(model, logits, (64, 96))
    assert (found.shape, found.dtype, found.device.type) == ((2, 64, 96), torch.long, 'cuda')
