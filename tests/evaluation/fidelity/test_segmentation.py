"""mIoU is that of mmseg's test, changed pixels are counted, and what is missing is said."""

import dataclasses

import numpy as np
import pytest
import torch
from mmengine.config import Config

from segformer_plusplus.errors import SegformerPlusPlusError, TokenMergingError
from segformer_plusplus.evaluation.fidelity import MEASURES, open_fidelity
from segformer_plusplus.evaluation.fidelity.segmentation import (
    RADIUS,
    count_pixels,
    find_fine_classes,
)
from segformer_plusplus.patching import apply_token_merging

from .reference import distances_to_border, run_test

pytest.importorskip('mmseg')

WINDOWS = {'model.test_cfg': dict(mode='slide', crop_size=(96, 96), stride=(64, 64))}


def labels(samples):
    return [sample.pred_sem_seg.data[0].numpy() for sample in samples]


@pytest.fixture
def opened(scenes):
    return open_fidelity(*scenes, device='cpu', progress=False)


@pytest.mark.parametrize('changes', [{}, WINDOWS], ids=['whole', 'windows'])
@pytest.mark.parametrize('strategy', ['hq', '2x2', 'downsampling'])
def test_it_measures_what_the_test_of_mmseg_measures(scenes, strategy, changes, tmp_path):
    metrics, samples = run_test(*scenes, strategy, tmp_path, **changes)
    _, references = run_test(*scenes, 'none', tmp_path, **changes)
    fidelity = open_fidelity(*scenes, device='cpu', cfg_options=changes, progress=False)
    values = fidelity.measure(strategy)
    assert round(values['mIoU'], 2) == pytest.approx(metrics['mIoU'], abs=1e-6)
    found, before = np.stack(labels(samples)), np.stack(labels(references))
    assert values['changed'] == pytest.approx(100 * (found != before).mean(), abs=1e-9)
    assert 0 < values['changed'] < 100


def test_the_class_mean_of_the_fine_ones(scenes, tmp_path):
    _, samples = run_test(*scenes, 'hq', tmp_path)
    names = ['pole', 'road']
    fidelity = open_fidelity(*scenes, device='cpu', progress=False, fine_classes=names)
    assert fidelity.fine_classes == names
    found = np.stack(labels(samples))
    truth = np.stack([sample.gt_sem_seg.data[0].numpy() for sample in samples])
    iou = [
        ((found == k) & (truth == k)).sum() / (((found == k) & (truth != 255)) | (truth == k)).sum()
        for k in (5, 0)
    ]
    assert fidelity.measure('hq')['mIoU_fine'] == pytest.approx(100 * np.mean(iou), rel=1e-5)


@pytest.mark.parametrize('merging', ['none', None, [{}, {}, {}, {}]])
def test_no_merging_changes_nothing(opened, merging):
    values = opened.measure(merging)
    assert values['changed'] == 0
    assert opened.drop(values) == 0
    assert {name.removesuffix('_present') for name in values} <= set(MEASURES)


def test_a_model_of_mmseg_itself(scenes):
    options = {'model.type': 'EncoderDecoder', 'model.decode_head.type': 'SegformerHead'}
    cfg = Config.fromfile(str(scenes[0]))
    cfg.merge_from_dict(options)
    cfg.model.backbone.pop('token_merging')
    cfg.model.backbone.update(type='mmseg.MixVisionTransformer')
    ours = open_fidelity(*scenes, device='cpu', progress=False)
    theirs = open_fidelity(cfg, scenes[1], device='cpu', progress=False)
    assert type(theirs.model.backbone).__module__.startswith('mmseg.')
    for strategy in ('none', 'hq'):
        expected = ours.measure(strategy)
        assert theirs.measure(strategy) == pytest.approx(expected, abs=0.3)


def test_a_subset_keeps_what_was_predicted(opened, monkeypatch):
    whole = opened.measure('hq')
    part = opened.subset([2, 0])
    assert part.num_images == 2 and opened.num_images == 3
    predicted = []
    test_step = opened.model.test_step
    monkeypatch.setattr(
        opened.model, 'test_step', lambda data: predicted.append(1) or test_step(data)
    )
    values = part.measure('hq')
    assert len(predicted) == 2  # under the strategy alone
    assert part.fine_classes == opened.fine_classes
    rest = opened.subset([1]).measure('hq')
    assert (2 * values['changed'] + rest['changed']) / 3 == pytest.approx(whole['changed'])
    assert part.subset([1]).measure('hq') == opened.subset([0]).measure('hq')


def test_other_processes_may_load(opened):
    values = opened.measure('hq')
    opened._source = dataclasses.replace(opened._source, workers=2)
    assert opened.measure('hq') == values


@pytest.mark.parametrize('indices', [[], [0, 0], [3], [-1]])
def test_a_subset_that_is_none(opened, indices):
    with pytest.raises(SegformerPlusPlusError):
        opened.subset(indices)


def test_a_subset_alone_knows_the_fine_classes_of_the_whole(scenes):
    part = open_fidelity(*scenes, device='cpu', progress=False).subset([1])
    part.measure('none')
    assert part.fine_classes == open_fidelity(*scenes, device='cpu', progress=False).fine_classes


def test_timing_leaves_the_measures_alone(opened):
    before = opened.measure('hq')
    timings = opened.time({'none': 'none', 'a': 'fast'}, rounds=2, warmup=1)
    assert {name: len(each.seconds) for name, each in timings.items()} == {'none': 2, 'a': 2}
    assert opened.shape == (128, 256)
    assert opened.measure('hq') == before


def test_every_timed_run_has_its_strategy(opened, monkeypatch):
    seen = []
    forward = type(opened.model.backbone).forward

    def spy(self, image):
        seen.append(any(stage.q or stage.kv for stage in self.token_merging.stages))
        return forward(self, image)

    monkeypatch.setattr(type(opened.model.backbone), 'forward', spy)
    opened.time({'none': 'none', 'a': 'hq'}, rounds=2, warmup=1)
    assert seen == [False, True] * 3


def test_images_without_labels(scenes, opened, tmp_path):
    cfg = Config.fromfile(str(scenes[0]))
    root = cfg.test_dataloader.dataset.data_root
    fidelity = open_fidelity(
        *scenes, device='cpu', images=f'{root}/leftImg8bit/val', progress=False
    )
    assert fidelity.num_images == 3 and not fidelity.has_truth
    assert fidelity.main_measure == 'changed' and fidelity.fine_classes == []
    values = fidelity.measure('hq')
    assert values == {'changed': opened.measure('hq')['changed']}
    assert fidelity.drop(values) == values['changed'] > 0


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(limit=4), 'limit=4: give a number from 1 to 3, which the test set holds'),
        (dict(limit=0), 'limit is 0'),
        (dict(fine_classes=['poles']), "'poles' is no class of the data set, .*pole, "),
        (dict(images='EMPTY'), 'empty holds no image'),
        (dict(images='nowhere'), 'input not found: nowhere'),
        (dict(images='EMPTY', fine_classes=['pole']), 'empty holds no image'),
        (
            {'cfg_options': {'test_dataloader.dataset.img_suffix': '.tiff'}},
            'the test set of the config is empty.*CityscapesDataset',
        ),
        ({'cfg_options': {'test_dataloader': None}}, 'no test_dataloader'),
        ({'cfg_options': {'default_scope': 'mmdet'}}, "default_scope 'mmdet'"),
        (
            {'cfg_options': {'test_dataloader.dataset.data_root': 'gone'}},
            'data not found: gone',
        ),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_built(
    scenes, tmp_path, arguments, message, monkeypatch
):
    (tmp_path / 'empty').mkdir()
    if arguments.get('images') == 'EMPTY':
        arguments = {**arguments, 'images': tmp_path / 'empty'}
    monkeypatch.setattr('segformer_plusplus.inference.opening._build', pytest.fail)
    with pytest.raises(SegformerPlusPlusError, match=message):
        open_fidelity(*scenes, device='cpu', **arguments)


def test_another_number_of_classes(scenes):
    classes = {'test_dataloader.dataset.metainfo': dict(classes=('road', 'car'))}
    with pytest.raises(SegformerPlusPlusError, match='19 classes apart, but the test set has 2'):
        open_fidelity(*scenes, device='cpu', cfg_options=classes)


def test_a_wrong_strategy_costs_nothing(opened, monkeypatch):
    monkeypatch.setattr(opened.model, 'test_step', pytest.fail)
    with pytest.raises(TokenMergingError, match="'hd' is unknown"):
        opened.measure('hd')
    with pytest.raises(TokenMergingError):
        opened.time({'a': [{}]}, rounds=1, warmup=0)


@pytest.mark.parametrize('call', ['measure', 'time'])
def test_out_of_memory_is_one_error_with_its_cause(opened, monkeypatch, call):
    opened.measure('none')
    cause = torch.OutOfMemoryError('CUDA out of memory')

    def fail(*args, **kwargs):
        raise cause

    monkeypatch.setattr(opened.model.backbone, 'forward', fail)
    with pytest.raises(
        SegformerPlusPlusError, match='hq: out of memory; .* smaller images'
    ) as error:
        opened.measure('hq') if call == 'measure' else opened.time({'hq': 'hq'}, 1, 0)
    assert error.value.__cause__ is cause


@pytest.mark.parametrize('seed', range(3))
def test_fine_classes_by_brute_force(seed):
    random = np.random.default_rng(seed)
    labels = np.zeros((50, 70), dtype=np.uint8)
    for _ in range(12):
        top, left = random.integers(0, 40), random.integers(0, 60)
        height, width = random.integers(2, 40, 2)
        labels[top : top + height, left : left + width] = random.choice([0, 1, 2, 3, 5, 255])
    counts = count_pixels(labels, 6)
    expected = []
    for k in range(6):
        distance = distances_to_border(labels == k)
        inside = distance[labels == k]
        assert counts[k].tolist() == [len(inside), int((inside > RADIUS).sum())]
        if len(inside) and (inside > RADIUS).sum() < len(inside) / 2:
            expected.append(k)
    assert find_fine_classes([counts]) == expected


def test_a_class_alone_has_no_border():
    counts = count_pixels(np.full((20, 30), 1, dtype=np.uint8), 3)
    assert counts.tolist() == [[0, 0], [600, 600], [0, 0]]
    assert find_fine_classes([counts, counts]) == []


def test_the_strategy_that_was_there_is_not_the_reference(scenes):
    """The config may name another one; no merging is the reference all the same."""
    option = {'model.backbone.token_merging': 'fast'}
    fidelity = open_fidelity(*scenes, device='cpu', cfg_options=option, progress=False)
    plain = open_fidelity(*scenes, device='cpu', progress=False)
    apply_token_merging(plain.model, 'hq')
    assert fidelity.measure('none') == plain.measure('none')
