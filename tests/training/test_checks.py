"""What would end a training at its first validation ends it before the first iteration."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from tiny_training import config, run, validated, write_data

from segformer_plusplus import CheckpointError, SegformerPlusPlusError
from segformer_plusplus.errors import describe_error
from segformer_plusplus.inference.configs import load_config
from segformer_plusplus.inference.opening import in_parts_of_one_size
from segformer_plusplus.training.checks import (
    check_best,
    check_metrics,
    check_numbers,
    check_outputs,
    check_phases,
)
from segformer_plusplus.training.runner import StrictRunner

SIZES = [(64, 64), (48, 96), (64, 64), (70, 50), (48, 96)]


def refused(cfg: Config, words: str) -> None:
    """Asserts that a training is refused in these words, and has not begun."""
    with pytest.raises(SegformerPlusPlusError, match=words):
        run(cfg)
    assert not list(Path(cfg.work_dir).glob('*.pth'))


@pytest.mark.parametrize('key', ['train', 'val'])
def test_another_number_of_classes(data, tmp_path, key):
    cfg = validated(config(data, tmp_path))
    cfg[f'{key}_dataloader'].dataset.metainfo = dict(classes=list('abcde'))
    refused(cfg, f'num_classes=4, but the data of {key}_dataloader has 5 classes')


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(save_best='mIuo'), "mIuo.* Give rule='greater' .* spelling of save_best$"),
        (dict(save_best='mDice'), "save_best='mDice' is no metric .* has aAcc, mIoU, mAcc"),
        (dict(save_best=['mIoU', 'x'], rule='greater'), "save_best='x' is no metric"),
        (dict(save_best='val/mAcc'), "save_best='val/mAcc' is no metric"),
    ],
)
def test_the_best_of_nothing(data, tmp_path, options, words):
    cfg = validated(config(data, tmp_path))
    cfg.default_hooks.checkpoint.update(options)
    refused(cfg, words)


@pytest.mark.parametrize(
    'best, metric',
    [
        ('auto', dict(type='IoUMetric')),
        ('mAcc', dict(type='IoUMetric')),
        ('mRecall', dict(type='IoUMetric', iou_metrics=['mFscore'])),
        ('val/mAcc', dict(type='IoUMetric', prefix='val')),
        ('AP', [dict(type='IoUMetric'), dict(type='DumpResults', out_file_path='x.pkl')]),
    ],
)
def test_the_best_of_what_there_is(data, tmp_path, best, metric):
    cfg = validated(config(data, tmp_path))
    cfg.val_evaluator = metric
    cfg.default_hooks.checkpoint.update(save_best=best, rule='greater')
    StrictRunner.from_cfg(cfg).build_val_loop(cfg.val_cfg)
    if best in ('mAcc', 'mRecall', 'val/mAcc'):
        cfg.test_evaluator = metric
        assert best in StrictRunner.from_cfg(cfg).test()


class Data:
    def __init__(self, **meta):
        self.metainfo = meta


@pytest.mark.parametrize(
    'kind, channels, fits',
    [
        ('HeatmapHead', 17, False),
        ('SegformerHeatmapHead', 17, False),
        ('SegformerHeatmapHead', 5, True),
        ('HeatmapHead', 15, True),  # a codec of three maps a keypoint
        ('RTMCCHead', 17, True),
    ],
)
def test_another_number_of_keypoints(kind, channels, fits):
    model = torch.nn.Module()
    model.head = type(kind, (torch.nn.Module,), {})()
    model.head.out_channels = channels
    check_outputs(Data(), model, 'val_dataloader')
    if fits:
        check_outputs(Data(num_keypoints=5), model, 'val_dataloader')
    else:
        with pytest.raises(SegformerPlusPlusError, match='17, but the people of v.* 5 keypoints'):
            check_outputs(Data(num_keypoints=5), model, 'val_dataloader')


def test_cascades_are_asked_head_by_head():
    model = torch.nn.Module()
    model.decode_head = torch.nn.ModuleList([torch.nn.Module(), torch.nn.Module()])
    for head, count in zip(model.decode_head, (3, 4), strict=True):
        head.num_classes = count
    check_outputs(Data(classes=()), model, 'x')
    with pytest.raises(SegformerPlusPlusError, match='num_classes=4, .* has 3'):
        check_outputs(Data(classes='abc'), model, 'x')
    model.decode_head = torch.nn.Module()
    model.decode_head.num_classes = model.decode_head.out_channels = 1
    check_outputs(Data(classes=('background', 'blood')), model, 'x')


@pytest.mark.parametrize('part', ['val_dataloader', 'val_cfg', 'val_evaluator', 'optim_wrapper'])
def test_a_part_that_is_missing(data, tmp_path, part):
    cfg = validated(config(data, tmp_path))
    cfg[part] = None
    refused(cfg, f'but no {part}; ')


def test_all_or_none_of_a_phase(data, tmp_path):
    check_phases(config(data, tmp_path))  # without validation
    check_phases(Config(dict(model=dict(type='x'))))
    with pytest.raises(SegformerPlusPlusError, match='has no model'):
        check_phases(Config(dict(train_cfg=None)))


@pytest.mark.parametrize(
    'changes, words',
    [
        ({'train_cfg.max_iters': 0}, 'train_cfg.max_iters=0 is not a number >= 1'),
        ({'train_cfg.val_interval': 'abc'}, "train_cfg.val_interval='abc' is not a number >= 1"),
        ({'default_hooks.checkpoint.interval': 'abc'}, "checkpoint.interval='abc' is not a number"),
        ({'optim_wrapper.clip_grad': dict(max_norm='abc')}, "max_norm='abc' is not a number"),
        (
            {'optim_wrapper.optimizer.type': 'Foo'},
            "optimizer.type='Foo' is not in the optimizer re",
        ),
        ({'optim_wrapper.optimizer.lr': 'abc'}, 'optim_wrapper of the config cannot be .* TypeErr'),
        ({'train_dataloader.batch_size': 0}, 'data loader of the config .* batch_size=0'),
        ({'train_dataloader.persistent_workers': True}, 'needs num_workers > 0'),
        ({'val_dataloader.batch_size': 0}, 'data loader of the config .* batch_size=0'),
        ({'param_scheduler': [dict(type='PolyLR', begin='abc')]}, 'param_scheduler of the config'),
        ({'randomness.seed': 'abc'}, 'randomness of the config cannot be built'),
        ({'val_evaluator.iou_metrics': ['Foo']}, r"val_evaluator of the config .*\['Foo'\] is not"),
    ],
)
def test_a_setting_that_is_wrong(data, tmp_path, changes, words):
    cfg = validated(config(data, tmp_path))
    cfg.merge_from_dict({'train_dataloader.num_workers': 0, **changes})
    refused(cfg, words)


@pytest.mark.parametrize(
    'key, registry',
    [
        ('train_dataloader.sampler.type', 'data sampler'),
        ('optim_wrapper.constructor', 'optimizer wrapper constructor'),
    ],
)
def test_a_name_that_a_registry_of_several_words_does_not_know(data, tmp_path, key, registry):
    cfg = config(data, tmp_path, **{key: 'Foo'})
    with pytest.raises(KeyError) as error:
        run(cfg)
    assert re.fullmatch(
        rf'Foo is not in the (\S+::)?{registry} registry; .*', describe_error(error.value)
    )


def test_numbers_that_mmengine_takes_are_taken(data, tmp_path):
    cfg = validated(config(data, tmp_path))
    cfg.train_cfg.update(max_iters=1e5, val_interval=5.0)
    cfg.default_hooks.checkpoint = None
    cfg.optim_wrapper.clip_grad = None
    check_numbers(cfg)
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=-1))
    check_numbers(cfg)


def test_a_missing_library_of_a_backend(data, tmp_path, monkeypatch):
    imported = importlib.import_module

    def missing(name, *rest):
        if name == 'tensorboard':
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
        return imported(name, *rest)

    monkeypatch.setattr(importlib, 'import_module', missing)
    cfg = config(data, tmp_path)
    cfg.visualizer = dict(
        type='SegLocalVisualizer', name=tmp_path.name, vis_backends=[dict(type='LocalVisBackend')]
    )
    StrictRunner.from_cfg(cfg)
    cfg.visualizer.name += '2'
    cfg.visualizer.vis_backends.append(dict(type='TensorboardVisBackend'))
    refused(cfg, 'TensorboardVisBackend needs tensorboard, .* pip install tensorboard')


def test_labels_that_are_not_loaded(data, tmp_path):
    cfg = validated(config(data, tmp_path))
    cfg.val_dataloader.dataset.pipeline.pop(1)
    refused(cfg, 'val_dataloader: its pipeline loads no labels, which IoUMetric needs')
    cfg.val_evaluator.update(format_only=True, output_dir=str(tmp_path / 'out'))
    StrictRunner.from_cfg(cfg).build_val_loop(cfg.val_cfg)
    cfg = validated(config(data, tmp_path))
    del cfg.val_dataloader.dataset.data_prefix.seg_map_path
    refused(cfg, 'val_dataloader: its pipeline loads labels, but its data_prefix has no seg_map_')


def test_labels_that_are_resized(data, tmp_path):
    cfg = validated(config(data, tmp_path))
    resize = dict(type='Resize', scale=(32, 32))
    cfg.val_dataloader.dataset.pipeline.insert(2, resize)
    refused(cfg, r'val_dataloader: its labels are \(32, 32\), predictions are \(64, 64\)')
    pipeline = cfg.val_dataloader.dataset.pipeline
    pipeline.insert(1, pipeline.pop(2))
    StrictRunner.from_cfg(cfg).build_val_loop(cfg.val_cfg)


@pytest.mark.parametrize('name', ['mean', 'std'])
@pytest.mark.parametrize(
    'count, channels, fits', [(3, 3, True), (1, 3, True), (1, 4, True), (4, 3, False),
                              (3, 1, False), (3, 4, False), (4, 4, False)],
)  # fmt: skip
def test_one_mean_for_each_channel(data, tmp_path, name, count, channels, fits):
    cfg = config(data, tmp_path)
    cfg.model.data_preprocessor.update(mean=[1.0], std=[1.0])
    cfg.model.data_preprocessor[name] = [1.0] * count
    cfg.model.backbone.in_channels = channels
    if fits:
        load_config(cfg)
    else:
        with pytest.raises(
            SegformerPlusPlusError, match=f'{name} has {count} values for .* {channels} channels'
        ):
            load_config(cfg)


def test_weights_for_other_classes_say_what_loads_them(data, calm, tmp_path):
    cfg = config(data, tmp_path, **{'model.decode_head.num_classes': 5})
    cfg.train_dataloader.dataset.metainfo = dict(classes=list('abcde'))
    cfg.load_from = str(calm / 'iter_2.pth')
    with pytest.raises(CheckpointError, match=r'5, 16.*strict_load=False .* number of classes'):
        run(cfg)
    cfg.strict_load = False
    cfg.train_cfg.max_iters = 1
    cfg.work_dir = str(tmp_path / 'fine')
    before = torch.load(calm / 'iter_2.pth', weights_only=False)['state_dict']
    name = 'backbone.layers.0.0.projection.weight'
    runner = StrictRunner.from_cfg(cfg)
    runner.load_or_resume()
    assert torch.equal(runner.model.state_dict()[name], before[name])
    with pytest.raises(CheckpointError) as error:  # nothing to go on from with other weights
        cfg.update(resume=True, strict_load=True)
        run(cfg)
    assert 'strict_load' not in str(error.value)


@pytest.fixture(scope='module')
def sizes(tmp_path_factory) -> Path:
    """Images of several sizes."""
    folder = write_data(tmp_path_factory.mktemp('sizes'), train=1, val=len(SIZES))
    for number, (height, width) in enumerate(SIZES):
        for kind in ('images', 'labels'):
            path = str(folder / kind / 'val' / f'{number}.png')
            pixels = cv2.imread(path, -1)
            cv2.imwrite(path, np.tile(pixels, (2, 2) + (1,) * (pixels.ndim - 2))[:height, :width])
    return folder


@pytest.mark.parametrize('mode', ['whole', 'padded', 'slide', 'mmseg'])
def test_a_batch_of_several_sizes_scores_as_one_by_one(sizes, calm, tmp_path, mode):
    scores = []
    for batch in (1, 3):
        cfg = config(sizes, tmp_path)
        cfg.load_from = str(calm / 'iter_6.pth')
        cfg.test_dataloader.batch_size = batch
        if mode == 'padded':
            cfg.model.data_preprocessor.test_cfg = dict(size_divisor=32)
        if mode == 'slide':
            cfg.model.test_cfg = dict(mode='slide', crop_size=(40, 40), stride=(30, 30))
        if mode == 'mmseg':
            cfg.model.type = 'EncoderDecoder'
        scores.append(StrictRunner.from_cfg(cfg).test())
    assert scores[0] == scores[1]


def test_the_order_of_samples_stays():
    seen = []

    def step(data):
        seen.append([tuple(each.shape) for each in data['inputs']])
        return [f'{name}!' for name in data['data_samples']]

    images = [torch.zeros(3, *size) for size in SIZES]
    data = dict(inputs=images, data_samples=list('abcde'))
    assert in_parts_of_one_size(step, data) == ['a!', 'b!', 'c!', 'd!', 'e!']
    assert [len(part) for part in seen] == [2, 2, 1] and all(len(set(part)) == 1 for part in seen)
    whole = dict(inputs=images[:1] * 2, data_samples=['a', 'b'])
    seen.clear()
    assert in_parts_of_one_size(step, whole) == ['a!', 'b!'] and len(seen) == 1
    assert in_parts_of_one_size(lambda data: data, 'other') == 'other'
    view = dict(inputs=tuple(images), data_samples=tuple('abcde'))  # of test-time augmentation
    assert in_parts_of_one_size(step, view) == ['a!', 'b!', 'c!', 'd!', 'e!']


@pytest.fixture
def people(tmp_path):
    """Builds mmpose's data set of two people whose annotations have some fields only."""
    pytest.importorskip('mmpose')
    pytest.importorskip('xtcocotools')
    from mmengine.registry import init_default_scope
    from mmpose.registry import DATASETS

    init_default_scope('mmpose')
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((40, 40, 3), np.uint8))

    def build(visible=2, without=()):
        points = [10.0, 10.0, visible] * 17
        person = dict(
            image_id=0, category_id=1, bbox=[1.0, 1.0, 30.0, 30.0], keypoints=points, area=100.0,
            num_keypoints=17, iscrowd=0,
        )  # fmt: skip
        every = [dict(person, id=1), {k: v for k, v in person.items() if k not in without}]
        every[1]['id'] = 2
        content = dict(
            images=[dict(id=0, file_name='a.png', height=40, width=40)],
            annotations=every,
            categories=[dict(id=1, name='person')],
        )
        (tmp_path / 'people.json').write_text(json.dumps(content))
        return DATASETS.build(
            dict(
                type='CocoDataset', data_root=str(tmp_path), ann_file='people.json',
                data_prefix=dict(img=''), test_mode=True, pipeline=[],
            )
        )  # fmt: skip

    return build


@pytest.mark.parametrize('from_file', [False, True])
@pytest.mark.parametrize('missing', ['area', 'num_keypoints', 'bbox', 'iscrowd', None])
def test_fields_that_the_coco_metric_needs(people, tmp_path, missing, from_file):
    from mmpose.evaluation import CocoMetric

    data = people(without=[missing])
    for use_area in (True, False):
        file = str(tmp_path / 'people.json') if from_file else None
        metric = CocoMetric(ann_file=file, use_area=use_area)
        if missing in (None, 'iscrowd') or (missing == 'area' and not use_area):
            check_metrics([metric], data, 'val_dataloader')
            continue
        words = f'val_dataloader: .*people.json has {missing}, which CocoMetric needs'
        with pytest.raises(SegformerPlusPlusError, match=words) as error:
            check_metrics([metric], data, 'val_dataloader')
        assert ('use_area=False' in str(error.value)) is (missing == 'area')


def test_keypoints_that_the_pck_needs(people):
    from segformer_plusplus.pose import BoxPCK

    check_metrics([BoxPCK()], people(visible=2), 'val_dataloader')
    with pytest.raises(SegformerPlusPlusError, match='val_dataloader: no keypoint is annotated'):
        check_metrics([BoxPCK()], people(visible=0), 'val_dataloader')


@pytest.mark.parametrize('hidden', [None, 'left_shoulder', 'right_hip', 'nose'])
def test_the_torso_that_its_pck_needs(people, hidden):
    from segformer_plusplus.pose import TorsoPCK

    data, metric = people(visible=2), TorsoPCK()
    metric.dataset_meta = data.metainfo
    infos = [data.get_data_info(index) for index in range(len(data))]
    for info in infos if hidden else []:
        info['keypoints_visible'][..., data.metainfo['keypoint_name2id'][hidden]] = 0
    data.get_data_info = infos.__getitem__
    if hidden in (None, 'nose'):
        check_metrics([metric], data, 'val_dataloader')
    else:
        words = 'val_dataloader: nobody .* both ends of the torso .* which TorsoPCK needs'
        with pytest.raises(SegformerPlusPlusError, match=words):
            check_metrics([metric], data, 'val_dataloader')
    metric.torso = 'left_shoulder', 'right_hand'
    with pytest.raises(SegformerPlusPlusError, match="has no keypoint 'right_hand'"):
        check_metrics([metric], data, 'val_dataloader')


def test_the_best_of_two_pcks():
    pytest.importorskip('xtcocotools')
    from mmengine.hooks import CheckpointHook

    from segformer_plusplus.pose import BoxPCK, TorsoPCK

    metrics = [BoxPCK(), TorsoPCK((0.2, 0.1))]
    for name in ('PCK@0.1', 'tPCK@0.1', 'tPCK@0.2'):
        check_best(CheckpointHook(save_best=name, rule='greater'), metrics)
    with pytest.raises(SegformerPlusPlusError, match=r"'tPCK@0.5' is no metric .* PCK@0.05, tPCK"):
        check_best(CheckpointHook(save_best='tPCK@0.5', rule='greater'), metrics)
