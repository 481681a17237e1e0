"""Whoever makes labels makes mmseg's: of one logit, of one class, with aligned corners."""

import warnings

import numpy as np
import pytest

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (must precede mmseg)

# isort: split
import torch
from mmseg.apis import inference_model
from mmseg.models.segmentors import EncoderDecoder
from PIL import Image
from test_labels import build, predict, sample

from segformer_plusplus.demo.segmentation import SegmentationComparer
from segformer_plusplus.evaluation.benchmark.contenders import Contender, OpenMMLabModel
from segformer_plusplus.evaluation.benchmark.costs import CompiledModel, TrainingStep
from segformer_plusplus.export.graph import predict as predict_graph
from segformer_plusplus.inference import Segmenter
from segformer_plusplus.inference.drawing import colorize
from segformer_plusplus.inference.merge_maps import merge_map, predict_labels
from segformer_plusplus.inference.writing import overlay

BCE = dict(type='CrossEntropyLoss', use_sigmoid=True)
HEADS = {
    'two classes of one logit': dict(num_classes=2, out_channels=1, loss_decode=BCE, threshold=0.3),
    'one class': dict(num_classes=1, loss_decode=BCE, threshold=0.6),
    'a default threshold': dict(num_classes=1, loss_decode=BCE),
    'five classes': dict(num_classes=5),
}
CORNERS = [False, True]
SLIDE = dict(mode='slide', crop_size=(48, 48), stride=(32, 32))
SIZE = 64, 96

every_head = pytest.mark.parametrize('head', HEADS)
by_corners = pytest.mark.parametrize('corners', CORNERS, ids=['centres', 'corners'])


def pair(head, corners=False, **settings):
    """Ours and mmseg's with equal weights; of one logit a fair part lies around its threshold."""
    settings['decode_head'] = dict(
        type='SegformerHeadPlusPlus', in_channels=[32, 64, 160, 256], in_index=[0, 1, 2, 3],
        channels=16, norm_cfg=dict(type='BN'), align_corners=corners, **HEADS[head],
    )  # fmt: skip
    settings['data_preprocessor'] = dict(
        type='SegDataPreProcessor', mean=[120.0, 110, 100], std=[58.0, 57, 56], bgr_to_rgb=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that the threshold has a default
        ours, theirs = build(**settings), build(EncoderDecoder, **settings)
    conv, threshold = ours.decode_head.conv_seg, ours.decode_head.threshold
    torch.nn.init.normal_(conv.weight, std=3)
    if threshold is not None:
        # the median between the threshold and one half, so that another threshold is seen
        middle = torch.tensor((threshold + 0.5) / 2).logit()
        with torch.no_grad():
            conv.bias.add_(middle - ours(images(), None, mode='tensor').median())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for each in (ours, theirs):
        each.dataset_meta, each.cfg = {}, None
    return ours, theirs


def pixels(seed=0):
    """An image (H, W, 3) uint8 BGR."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC)).copy()


def images():
    """The same, normalised."""
    rgb = torch.from_numpy(pixels()[..., ::-1].copy()).permute(2, 0, 1)
    mean, std = (torch.tensor(each)[:, None, None] for each in ([120.0, 110, 100], [58.0, 57, 56]))
    return ((rgb - mean) / std)[None]


def mmsegs(theirs, **meta):
    (result,) = predict(theirs, images(), [sample(SIZE, **meta)])
    labels = result.pred_sem_seg.data
    assert len(labels.unique()) > 1
    return labels


def share_equal(labels, expected):
    labels, expected = torch.as_tensor(labels), torch.as_tensor(expected)
    assert not labels.is_floating_point() and labels.shape == expected.shape
    return float((labels == expected).float().mean())


@every_head
@by_corners
def test_the_segmentor(head, corners):
    ours, theirs = pair(head, corners)
    for meta in ({}, dict(ori_shape=(50, 81)), dict(flip=True, flip_direction='horizontal')):
        (result,) = predict(ours, images(), [sample(SIZE, **meta)])
        assert result.pred_sem_seg.data.dtype == torch.int64
        assert share_equal(result.pred_sem_seg.data, mmsegs(theirs, **meta)) > 0.999
    (result,) = predict(ours, images(), None)
    assert share_equal(result.pred_sem_seg.data, mmsegs(theirs)) > 0.999
    with torch.inference_mode():
        assert share_equal(ours.predict_labels(images()), mmsegs(theirs)) > 0.999


@every_head
def test_windows(head):
    ours, theirs = pair(head, test_cfg=SLIDE)
    (result,) = predict(ours, images(), [sample(SIZE)])
    assert share_equal(result.pred_sem_seg.data, mmsegs(theirs)) > 0.999


@every_head
@by_corners
@pytest.mark.parametrize('whose', ['ours', "mmseg's"])
def test_all_who_predict(head, corners, whose):
    ours, theirs = pair(head, corners)
    model, expected = (ours if whose == 'ours' else theirs), mmsegs(theirs)
    segmenter = Segmenter(model)
    labels = segmenter.labels(pixels())
    assert np.issubdtype(labels.dtype, np.integer) and share_equal(labels, expected[0]) > 0.999
    made = {
        'tiles': Segmenter(model, tile=(64, 96))(pixels()).pred_sem_seg.data[0],
        'merge map': predict_labels_of(model),
        'merge map of an image': merge_map(model, pixels()[..., ::-1].copy()).labels,
    }
    with torch.inference_mode():
        contender = OpenMMLabModel(model)
        made['benchmark'] = contender.predict(images())[0]
        logits = contender.logits(images())
        made['another library'] = Contender.labels(contender, logits, SIZE)[0]
        if head == 'one class' and whose == 'ours':  # compiling takes seconds
            made['compiled'] = CompiledModel(contender, 'eager').predict(images())[0]
        made['graph'] = predict_graph(model, images(), 'labels')[0]
    for name, found in made.items():
        assert share_equal(found, expected[0]) > 0.999, name


def predict_labels_of(model):
    with torch.inference_mode():
        return predict_labels(model, images())


def test_mmsegs_own_inference_agrees():
    """Its API reads the array and postprocesses by itself."""
    ours, theirs = pair('two classes of one logit')
    from mmengine.config import Config

    theirs.cfg = Config(
        dict(
            test_pipeline=[dict(type='LoadImageFromNDArray'), dict(type='PackSegInputs')],
            test_dataloader=dict(
                dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')])
            ),
        )
    )
    expected = inference_model(theirs, pixels()).pred_sem_seg.data[0]
    assert share_equal(Segmenter(ours).labels(pixels()), expected) > 0.999


@pytest.mark.parametrize('names', [(), ('fg',), ('bg', 'fg'), ('a', 'b', 'c')], ids=len)
@pytest.mark.parametrize('head', ['two classes of one logit', 'one class'])
def test_colours_of_one_logit(head, names):
    model, _ = pair(head)
    palette = [[10, 20, 30], [200, 0, 0], [0, 0, 99]][-len(names) :] if names else []
    model.dataset_meta = dict(classes=names, palette=palette)
    segmenter = Segmenter(model)
    count = model.decode_head.num_classes
    expected = list(names) if len(names) in (1, 2) else [f'class {i}' for i in range(count)]
    assert segmenter.classes == expected and len(segmenter.palette) == len(expected)
    labels = (np.arange(96) < 48)[None].repeat(64, 0).astype(np.int64)  # left 1, right 0
    image = pixels()
    painted = overlay(image, labels, segmenter.palette, 1.0)
    drawn = colorize(labels, segmenter.palette.tolist())
    assert (painted[labels == 1] == segmenter.palette[-1, ::-1]).all()
    assert (drawn[labels == 1] == segmenter.palette[-1]).all()
    if len(expected) == 1:  # the rest is no class
        assert (painted[labels == 0] == image[labels == 0]).all()
        assert (drawn[labels == 0] == 0).all()
    else:
        assert (painted[labels == 0] == segmenter.palette[0, ::-1]).all()
        assert (drawn[labels == 0] == segmenter.palette[0]).all()


@pytest.mark.parametrize('head', ['two classes of one logit', 'one class'])
def test_the_page(head):
    model, theirs = pair(head)
    model.dataset_meta = dict(
        classes=('fg',) if head == 'one class' else ('bg', 'fg'),
        palette=[[9, 9, 9], [200, 0, 0]][-model.decode_head.num_classes :],
    )
    outcome = SegmentationComparer(Segmenter(model))(pixels()[..., ::-1].copy(), 'none').outcome
    shares = {each.name: float(each.value.rstrip('%')) / 100 for each in outcome.legend}
    expected = mmsegs(theirs)[0].float().mean()
    assert shares['fg'] == pytest.approx(float(expected), abs=1e-3)
    assert set(shares) == {'fg', 'background' if head == 'one class' else 'bg'}
    image = pixels()[..., ::-1]
    painted = (outcome.merged != image).any(-1)
    if head == 'one class':
        assert painted.mean() == pytest.approx(float(expected), abs=0.02)


def test_colours_of_more_classes_than_a_byte_holds():
    labels = np.array([[0, 255, 256, 299, 300]])
    palette = np.random.default_rng(0).integers(1, 255, (300, 3)).tolist()
    assert colorize(labels, palette)[0].tolist() == [
        *(palette[k] for k in (0, 255, 256, 299)),
        [0] * 3,
    ]


@pytest.mark.parametrize('head', ['two classes of one logit', 'one class'])
def test_training_steps_of_one_logit(head):
    model, _ = pair(head)
    contender = OpenMMLabModel(model)
    targets = contender.random_targets(images())
    assert targets.unique().tolist() == [0, 1]
    step = TrainingStep(contender, torch.cat([images()] * 2), torch.cat([targets] * 2))
    step()
    assert torch.isfinite(step.loss())
