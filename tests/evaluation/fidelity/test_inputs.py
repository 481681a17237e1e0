"""Segmentors of one logit, of one class, and of other channels than three are measured as well."""

import numpy as np
import pytest
import torch
from inference.tiny import SEGMENTATION
from PIL import Image

from segformer_plusplus.cli.merge_map import main as merge_map
from segformer_plusplus.cli.predict import main as predict
from segformer_plusplus.cli.test import main as run_command_test
from segformer_plusplus.demo import open_comparer
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.evaluation.fidelity import open_fidelity
from segformer_plusplus.inference import open_model
from segformer_plusplus.inference.configs import load_config
from segformer_plusplus.inference.segmenter import _reduces_zero_label

from .conftest import write
from .reference import run_test
from .test_segmentation import QUIET, maps

pytest.importorskip('mmseg')

CASE = """
model['decode_head'].update({head})
model['backbone']['in_channels'] = {channels}
model['data_preprocessor'].update(mean={mean}, std={std})  # mmseg takes three numbers at most
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset', data_root={root!r}, img_suffix='.png', seg_map_suffix='.png',
        metainfo=dict(classes={classes}, palette=[[9, 9, 9], [200, 0, 0]][-len({classes}):]),
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        pipeline=[
            dict(type='CheckedLoadImageFromFile', color_type={color!r}),
            dict(type='CheckedLoadAnnotations', num_classes=2),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_cfg = dict()
"""
BCE = "loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True)"
HEADS = {
    'one logit': (f'num_classes=2, out_channels=1, threshold=0.3, {BCE}', ('bg', 'fg')),
    'one class': (f'num_classes=1, threshold=0.3, {BCE}', ('fg',)),
    'one class of two': (f'num_classes=1, threshold=0.3, {BCE}', ('bg', 'fg')),
    'two logits': ('num_classes=2', ('bg', 'fg')),
}
COLOURS = {1: 'grayscale', 3: 'color', 4: 'unchanged'}


def make(folder, head, channels):
    """Config, checkpoint, and two images whose labels are their bright parts."""
    rng = np.random.default_rng(channels)
    for index in range(2):
        small = rng.integers(0, 256, (8, 12, channels), dtype=np.uint8)
        large = small.repeat(8, axis=0).repeat(8, axis=1)
        for kind, array in (('img', large), ('ann', (large[..., 0] > 128).astype(np.uint8))):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(array.squeeze()).save(folder / kind / f'{index}.png')
    settings, classes = HEADS[head]
    mean, std = ([each] * channels if channels < 4 else None for each in (120.0, 60.0))
    text = CASE.format(
        head=settings, channels=channels, root=str(folder), classes=classes,
        color=COLOURS[channels], mean=mean, std=std,
    )  # fmt: skip
    config, checkpoint = write(folder, SEGMENTATION + text, seed=1)
    return config, spread(config, checkpoint)


def spread(config, checkpoint):
    """Moves the last bias, so that both labels are predicted, by 0.3 others than by 0.5."""
    model = open_model(str(config), str(checkpoint), device='cpu')
    image = torch.rand(1, model.backbone.in_channels, 64, 96)
    with torch.inference_mode():
        logits = model(image if model.backbone.in_channels < 4 else 255 * image, mode='tensor')
    state = torch.load(checkpoint)
    state['state_dict']['decode_head.conv_seg.bias'] -= logits.flatten(2).median(2).values[0] + 0.4
    torch.save(state, checkpoint)
    return checkpoint


@pytest.mark.parametrize(
    ('head', 'channels'), [*((head, 3) for head in HEADS), ('one logit', 1), ('two logits', 4)]
)
def test_it_measures_what_the_test_of_mmseg_measures(tmp_path, head, channels):
    config, checkpoint = make(tmp_path, head, channels)
    opened = open_fidelity(config, checkpoint, **QUIET)
    labels = {}
    for strategy in ('none', 'hq'):
        metrics, samples = run_test(config, checkpoint, strategy, tmp_path / 'work')
        labels[strategy] = maps(samples)[0]
        values = opened.measure(strategy)
        assert round(values['mIoU'], 2) == pytest.approx(metrics['mIoU'], abs=1e-6)
    assert len(np.unique(labels['none'])) == 2 and set(np.unique(labels['none'])) == {0, 1}
    changed = (labels['hq'] != labels['none']).mean()
    assert values['changed'] == pytest.approx(100 * changed)
    assert opened.time({'none': 'none'}, rounds=1, warmup=0)


def test_images_of_other_channels_are_one_line(tmp_path):
    config, checkpoint = make(tmp_path, 'two logits', 3)
    options = {'test_dataloader.dataset.pipeline.0.color_type': 'grayscale'}
    options |= {'model.data_preprocessor.mean': [120.0], 'model.data_preprocessor.std': [60.0]}
    opened = open_fidelity(config, checkpoint, cfg_options=options, **QUIET)
    with pytest.raises(
        SegformerPlusPlusError, match=r'has 1 channels, backbone\.in_channels is 3; load what'
    ):
        opened.measure('none')


@pytest.mark.parametrize('head', ['one logit', 'one class', 'two logits'])
@pytest.mark.parametrize('reduces', [False, True])
def test_predict_and_test_write_labels_of_which_it_is_said_what_they_are(
    tmp_path, head, reduces, capfd
):
    config, checkpoint = make(tmp_path, head, 3)
    data = 'test_dataloader.dataset'
    options = ['--cfg-options', f'{data}.reduce_zero_label={reduces}']
    call = [str(config), str(checkpoint)]
    inputs = [str(tmp_path / 'img'), '--out', str(tmp_path / 'predicted'), '--no-legend']
    assert predict([*call, *inputs, '--device', 'cpu', *options]) == 0
    said = 'has the indices of the classes, from 0' in capfd.readouterr().err
    assert said == reduces
    work = ['--work-dir', str(tmp_path / 'work')]
    assert not run_command_test([*call, '--out', str(tmp_path / 'tested'), *work, *options])
    for index in range(2):
        ours, theirs = (
            np.asarray(Image.open(next((tmp_path / folder).rglob(f'{index}.png'))))
            for folder in ('predicted/masks', 'tested')
        )
        assert set(np.unique(ours)) == {0, 1}
        assert np.array_equal(ours + int(reduces), theirs)
    # of a class that is alone, the rest of the picture stays as it is
    image, painted = (
        np.asarray(Image.open(tmp_path / f'{folder}/1.png'))
        for folder in ('img', 'predicted/overlays')
    )
    assert (painted == image)[ours == 0].all() == (head == 'one class')
    assert not (painted == image)[ours == 1].all()


@pytest.mark.parametrize(
    ('dataset', 'reduces'),
    [
        (dict(type='ADE20KDataset'), True),
        (dict(type='mmseg.ADE20KDataset'), True),
        (dict(type='ADE20KDataset', reduce_zero_label=False), False),
        (dict(type='CityscapesDataset'), False),
        (dict(type='BaseSegDataset', reduce_zero_label=True), True),
        ({}, False),
    ],
)
def test_whose_files_are_one_higher(dataset, reduces):
    assert _reduces_zero_label({}, dataset) == reduces
    assert _reduces_zero_label(dict(reduce_zero_label=True), {})


@pytest.mark.parametrize('channels', [1, 4])
def test_every_command_takes_images_of_other_channels(tmp_path, channels, capfd):
    """The labels are those of mmseg's test, from files of grey and of four-channel images."""
    config, checkpoint = make(tmp_path, 'two logits', channels)
    _, samples = run_test(config, checkpoint, 'none', tmp_path / 'work')
    expected = maps(samples)[0]
    call, device = [str(config), str(checkpoint)], ['--device', 'cpu']
    for tile in ([], ['--tile', '64x96']):
        out = tmp_path / f'predicted{len(tile)}'
        assert predict([*call, str(tmp_path / 'img'), '--out', str(out), *tile, *device]) == 0
        found = [np.asarray(Image.open(out / 'masks' / f'{index}.png')) for index in range(2)]
        assert np.array_equal(found, expected)
    picture = tmp_path / 'img' / '0.png'
    assert merge_map([*call, str(picture), '--out', str(tmp_path / 'a.png'), *device]) == 0
    images = open_fidelity(config, checkpoint, images=str(tmp_path / 'img'), **QUIET)
    assert images.measure('hq')['changed'] >= 0
    assert np.array_equal([each.labels for each in images.predict('none')], expected)
    comparer = open_comparer(load_config(config), checkpoint, 'cpu')
    image = comparer.read(picture).image
    assert comparer(image, 'hq').outcome.merged.shape == (64, 96, 3)
    shares = {each.name: each.value for each in comparer(image, 'none').outcome.legend}
    assert shares['fg'] == f'{expected[0].mean():.1%}'


@pytest.mark.parametrize('model', ['scenes', 'jumpers'])
@pytest.mark.parametrize('images', [False, True])
def test_the_device_is_the_one_that_was_asked_for(model, images, tmp_path, request):
    options = dict(device='cpu:99', progress=False)
    if images:
        Image.new('RGB', (96, 96)).save(tmp_path / 'a.png')
        options['images'] = tmp_path
    with pytest.raises(SegformerPlusPlusError, match='cpu:99'):
        open_fidelity(*request.getfixturevalue(model), **options)
