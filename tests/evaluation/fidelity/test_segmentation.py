"""mIoU is that of mmseg's test, changed pixels are counted, and what is missing is said."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from segformer_plusplus.errors import SegformerPlusPlusError, TokenMergingError
from segformer_plusplus.evaluation.fidelity import MEASURES, open_fidelity
from segformer_plusplus.evaluation.fidelity.opening import source_of_test_set
from segformer_plusplus.evaluation.fidelity.segmentation import (
    RADIUS,
    count_pixels,
    find_fine_classes,
)

from .reference import distances_to_border, run_test

pytest.importorskip('mmseg')

QUIET = dict(device='cpu', progress=False)
WINDOWS = {'model.test_cfg': dict(mode='slide', crop_size=(96, 96), stride=(64, 64))}


@pytest.fixture(scope='module')
def opened(scenes):
    return open_fidelity(*scenes, **QUIET)


@pytest.fixture
def data(scenes, tmp_path):
    """The label maps of a copy of the data set, and the option that names the copy."""
    root = tmp_path / 'data'
    shutil.copytree(Config.fromfile(str(scenes[0])).test_dataloader.dataset.data_root, root)
    paths = sorted(root.rglob('gtFine/val/*/*_labelTrainIds.png'))
    return paths, {'test_dataloader.dataset.data_root': str(root)}


def maps(samples):
    """Labels and ground truth (N, H, W)."""
    found = np.stack([sample.pred_sem_seg.data[0].numpy() for sample in samples])
    return found, np.stack([sample.gt_sem_seg.data[0].numpy() for sample in samples])


def iou_of(samples):
    """Per class, by plain counting, and which classes the ground truth has."""
    found, truth = maps(samples)
    both = [((found == k) & (truth == k)).sum() for k in range(19)]
    either = [(((found == k) & (truth != 255)) | (truth == k)).sum() for k in range(19)]
    present = np.array([(truth == k).any() for k in range(19)])
    with np.errstate(invalid='ignore'):  # of a class that is neither there nor predicted
        return np.array(both) / np.array(either), present


@pytest.mark.parametrize('changes', [{}, WINDOWS], ids=['whole', 'windows'])
def test_it_measures_what_the_test_of_mmseg_measures(scenes, changes, tmp_path):
    before, _ = maps(run_test(*scenes, 'none', tmp_path, **changes)[1])
    named = open_fidelity(*scenes, cfg_options=changes, fine_classes=['pole', 'road'], **QUIET)
    assert named.fine_classes == ['pole', 'road']
    assert 'mIoU fine of pole, road;' in named.describe()
    for strategy in ['hq', '2x2', 'downsampling'] if not changes else ['hq', 'downsampling']:
        metrics, samples = run_test(*scenes, strategy, tmp_path, **changes)
        values = named.measure(strategy)
        assert round(values['mIoU'], 2) == pytest.approx(metrics['mIoU'], abs=1e-6)
        found, _ = maps(samples)
        assert values['changed'] == pytest.approx(100 * (found != before).mean(), abs=1e-9)
        assert 0 < values['changed'] < 100
        iou, _ = iou_of(samples)
        assert values['mIoU_fine'] == pytest.approx(100 * iou[[5, 0]].mean(), rel=1e-5)


def test_no_merging_is_the_reference_whatever_the_config_names(scenes, opened):
    option = {'model.backbone.token_merging': 'fast'}
    other = open_fidelity(*scenes, cfg_options=option, **QUIET)
    for merging in ('none', None, [{}, {}, {}, {}]):
        values = opened.measure(merging)
        assert values['changed'] == 0 and opened.drop(values) == 0
        assert other.measure(merging) == values
        assert {name.removesuffix('_present') for name in values} <= set(MEASURES)


def test_a_model_of_mmseg_itself(scenes, opened):
    cfg = Config.fromfile(str(scenes[0]))
    cfg.merge_from_dict({'model.type': 'EncoderDecoder', 'model.decode_head.type': 'SegformerHead'})
    cfg.model.backbone.pop('token_merging')
    cfg.model.backbone.update(type='mmseg.MixVisionTransformer')
    theirs = open_fidelity(cfg, scenes[1], **QUIET)
    assert type(theirs.model.backbone).__module__.startswith('mmseg.')
    for strategy in ('none', 'hq'):
        assert theirs.measure(strategy) == pytest.approx(opened.measure(strategy), abs=0.3)


def test_a_subset_keeps_what_was_predicted(scenes, opened, monkeypatch):
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
    rest = opened.subset([1]).measure('hq')
    assert (2 * values['changed'] + rest['changed']) / 3 == pytest.approx(whole['changed'])
    assert part.subset([1]).measure('hq') == opened.subset([0]).measure('hq')
    # alone, it knows the fine classes of the whole
    alone = open_fidelity(*scenes, **QUIET).subset([1])
    alone.measure('none')
    assert alone.fine_classes == part.fine_classes == opened.fine_classes


def test_what_a_subset_predicts_is_kept_for_all(scenes, monkeypatch):
    """Predictions without merging are made once each, whoever asks first."""
    whole = open_fidelity(*scenes, **QUIET)
    first, second = whole.subset([2]), whole.subset([1, 2])
    predicted, test_step = [], whole.model.test_step

    def counted(data):
        predicted.extend(sample.img_path for sample in data['data_samples'])
        return test_step(data)

    monkeypatch.setattr(whole.model, 'test_step', counted)
    for part, new in ((first, 1), (second, 1), (whole, 1), (whole.subset([0]), 0), (first, 0)):
        before = len(predicted)
        part.measure('none')
        assert len(predicted) - before == new
    assert len(set(predicted)) == 3


@pytest.mark.parametrize('indices', [[], [0, 0], [3], [-1]])
def test_a_subset_that_is_none(opened, indices):
    with pytest.raises(SegformerPlusPlusError):
        opened.subset(indices)


def test_every_timed_run_has_its_strategy_and_measures_stay(opened, monkeypatch):
    before = opened.measure('hq')
    seen = []
    forward = type(opened.model.backbone).forward

    def spy(self, image):
        seen.append(any(stage.q or stage.kv for stage in self.token_merging.stages))
        return forward(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(type(opened.model.backbone), 'forward', spy)
        timings = opened.time({'none': 'none', 'a': 'fast'}, rounds=2, warmup=1)
    assert seen == [False, True] * 3
    assert {name: len(each.seconds) for name, each in timings.items()} == {'none': 2, 'a': 2}
    assert opened.shape == (128, 256)
    # other processes may load
    monkeypatch.setattr(opened, '_source', dataclasses.replace(opened._source, workers=2))
    assert opened.measure('hq') == before


def test_the_model_has_the_cpu_for_itself(scenes):
    workers = {'test_dataloader.num_workers': 2, 'test_dataloader.batch_size': 3}
    source = open_fidelity(*scenes, cfg_options=workers, **QUIET)._source
    assert (source.workers, source.batch_size) == (0, 3)


@pytest.mark.parametrize(('loader', 'expected'), [({}, (0, 1)), (dict(num_workers=2), (2, 1))])
def test_workers_load_where_the_model_leaves_them_the_cpu(loader, expected):
    source = source_of_test_set(
        Config(dict(test_dataloader=loader)), [], 0, torch.nn.Linear(1, 1, device='meta')
    )
    assert (source.workers, source.batch_size) == expected


def test_images_without_labels(scenes, opened):
    root = Config.fromfile(str(scenes[0])).test_dataloader.dataset.data_root
    fidelity = open_fidelity(*scenes, images=f'{root}/leftImg8bit/val', **QUIET)
    assert fidelity.num_images == 3 and not fidelity.has_truth
    assert fidelity.main_measure == 'changed' and fidelity.fine_classes == []
    values = fidelity.measure('hq')
    assert values == {'changed': opened.measure('hq')['changed']}
    assert fidelity.drop(values) == values['changed'] > 0


def test_an_image_that_the_model_cannot_take_is_named(scenes, tmp_path, monkeypatch):
    Image.new('RGB', (64, 64)).save(tmp_path / 'dot.png')
    fidelity = open_fidelity(*scenes, images=str(tmp_path), **QUIET)

    def refuse(data):
        raise SegformerPlusPlusError('it is too small')

    monkeypatch.setattr(fidelity.model, 'test_step', refuse)
    with pytest.raises(
        SegformerPlusPlusError, match='image dot.png cannot be predicted: it is too'
    ):
        fidelity.measure('none')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(limit=4), 'limit=4: give a number from 1 to 3, which the test set holds'),
        (dict(limit=3, images='TWO'), 'limit=3: give a number from 1 to 2, which .*two holds'),
        (dict(limit=0), 'limit is 0'),
        (dict(fine_classes=['poles']), "'poles' is no class of the data set, .*pole, "),
        (dict(images='EMPTY'), 'empty holds no image'),
        (dict(images='nowhere'), 'input not found: nowhere'),
        (
            {'cfg_options': {'test_dataloader.dataset.img_suffix': '.tiff'}},
            'the test set of the config is empty.*CityscapesDataset',
        ),
        ({'cfg_options': {'test_dataloader': None}}, 'no test_dataloader'),
        ({'cfg_options': {'default_scope': 'mmdet'}}, "default_scope 'mmdet'"),
        ({'cfg_options': {'test_dataloader.dataset.data_root': 'gone'}}, 'data not found: gone'),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_built(
    scenes, tmp_path, arguments, message, monkeypatch
):
    for name, count in dict(empty=0, two=2).items():
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new('RGB', (8, 8)).save(tmp_path / name / f'{index}.png')
        if arguments.get('images') == name.upper():
            arguments = dict(arguments, images=tmp_path / name)
    monkeypatch.setattr('segformer_plusplus.inference.opening._build', pytest.fail)
    with pytest.raises(SegformerPlusPlusError, match=message):
        open_fidelity(*scenes, device='cpu', **arguments)


def test_a_test_set_of_one_image(scenes):
    fidelity = open_fidelity(*scenes, cfg_options={'test_dataloader.dataset.indices': 1}, **QUIET)
    assert fidelity.num_images == 1 and fidelity.main_measure == 'mIoU'


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


def test_label_maps_may_be_missing_beyond_the_limit_or_all(scenes, opened, data, warnings):
    paths, options = data
    settings = dict(cfg_options=options, **QUIET)
    paths[2].unlink()
    values = open_fidelity(*scenes, limit=2, **settings).measure('hq')
    assert values['mIoU'] == opened.subset([0, 1]).measure('hq')['mIoU']
    with pytest.raises(SegformerPlusPlusError, match='1 of 3 label maps .* missing'):
        open_fidelity(*scenes, **settings)
    assert not warnings
    for path in paths[:2]:
        path.unlink()
    fidelity = open_fidelity(*scenes, **settings)
    open_fidelity(*scenes, limit=1, **settings)
    said = f'the test set has no labels ({paths[0]} is not there): accuracy is left out'
    assert warnings == [said, said]
    assert fidelity.measure('hq') == {'changed': opened.measure('hq')['changed']}


def test_labels_that_all_say_ignore_are_none(scenes, opened, data, warnings):
    """As those of the test images of Cityscapes."""
    paths, options = data
    for path in paths[:2]:
        Image.new('L', Image.open(path).size, 255).save(path)
    settings = dict(cfg_options=options, **QUIET)
    assert open_fidelity(*scenes, **settings).has_truth and not warnings
    part = open_fidelity(*scenes, limit=2, **settings)
    assert warnings == ['no pixel of the 2 images is labelled: accuracy is left out']
    assert not part.has_truth and part.main_measure == 'changed'
    assert part.measure('none') == {'changed': 0}
    with pytest.raises(SegformerPlusPlusError, match='no ground truth to average over'):
        open_fidelity(*scenes, limit=2, fine_classes=['pole'], **settings)


@pytest.fixture
def fewer_classes(data):
    """The option that names the same images without labels of car and pole."""
    paths, option = data
    for path in paths:
        truth = np.array(Image.open(path))
        Image.fromarray(np.where(np.isin(truth, [5, 13]), np.uint8(255), truth)).save(path)
    return option


def test_a_drop_is_one_of_the_classes_that_occur(scenes, fewer_classes, tmp_path):
    """A class without ground truth is in the mIoU where a pixel is taken for it, as 0."""
    (iou, present), (before, _) = (
        iou_of(run_test(*scenes, each, tmp_path, **fewer_classes)[1]) for each in ('2x2', 'none')
    )
    assert present.sum() == 17
    fidelity = open_fidelity(*scenes, cfg_options=fewer_classes, **QUIET)
    values = fidelity.measure('2x2')
    assert values['mIoU'] == pytest.approx(100 * np.nanmean(iou), abs=1e-4)
    fine = present & np.isin(np.arange(19), fidelity._fine())
    for measure, mask in [(None, present), ('mIoU_fine', fine)]:
        expected = 100 * (before[mask].mean() - iou[mask].mean())
        assert fidelity.drop(values, measure) == pytest.approx(expected, abs=1e-4)
    assert fidelity.drop(values, 'changed') == values['changed']


@pytest.mark.parametrize('name, value', [('ignore_index', 8), ('nan_to_num', 7)])
def test_it_counts_as_the_evaluator_of_the_config(scenes, fewer_classes, tmp_path, name, value):
    settings = fewer_classes | {f'test_evaluator.{name}': value}
    (found, plain) = (
        open_fidelity(*scenes, cfg_options=each, **QUIET).measure('none')['mIoU']
        for each in (settings, fewer_classes)
    )
    expected, _ = run_test(*scenes, 'none', tmp_path, **settings)
    assert found == pytest.approx(expected['mIoU'], abs=0.01)
    assert found != pytest.approx(plain, abs=0.02)


def test_a_class_of_one_pixel_occurs(opened):
    truth = torch.full((19,), 100.0)
    truth[:2] = torch.tensor([1.0, 0.0])
    right = truth.clone()
    right[0] = 0  # the one pixel is missed, and nothing else
    values = opened._accuracy([(right, truth, right, truth)])
    assert values['mIoU_present'] == pytest.approx(100 * 17 / 18)


def test_one_stray_pixel_of_an_absent_class_is_no_drop(scenes, fewer_classes, monkeypatch):
    """It makes mIoU lower by a whole class."""
    opened = open_fidelity(*scenes, cfg_options=fewer_classes, **QUIET)
    part = opened.subset([1])
    truth = part._source.data[1]['data_samples'].gt_sem_seg.data[0]
    labelled = (truth != 255).nonzero()[0]
    perfect = torch.where(truth == 255, 0, truth)
    stray = perfect.clone()
    stray[tuple(labelled)] = 5
    test_step, answers = opened.model.test_step, [perfect, stray]

    def answer(batch):
        (sample,) = test_step(batch)
        sample.pred_sem_seg.data = answers.pop(0)[None]
        return [sample]

    monkeypatch.setattr(opened.model, 'test_step', answer)
    assert 'not in the ground truth' not in part.describe()  # nothing is read yet
    values = part.measure('hq')
    assert part.baseline['mIoU'] == pytest.approx(100)
    assert '; 2 of the classes are not in the ground truth' in part.describe()
    assert values['mIoU'] < 96  # 1 of fewer than 20 classes is 0
    assert 0 < part.drop(values) < 1
