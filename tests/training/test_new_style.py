"""Configs whose ``type`` is a class, and names with a scope: as those that name it."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from inference.tiny import with_classes
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from PIL import Image
from tiny_training import CLASSES, assert_same, config, trained, validated

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.cli import test as tool
from segformer_plusplus.inference.configs import load_config
from segformer_plusplus.training.predictions import SegmentationFilesHook, _file_names
from segformer_plusplus.training.runner import StrictRunner
from segformer_plusplus.training.switches import BFloat16OptimWrapper, apply_switches

TTA = [
    dict(type='CheckedLoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [dict(type='CheckedLoadAnnotations', num_classes=CLASSES)],
            [dict(type='PackSegInputs')],
        ],
    ),
]


class OwnMetric(IoUMetric):
    """Is somebody's own."""


def scoped(cfg: Config) -> Config:
    cfg.test_evaluator.type = 'mmseg.IoUMetric'
    cfg.model.backbone.type = 'mmengine.MixVisionTransformerPlusPlus'
    cfg.model.type = 'mmengine.EncoderDecoderPlusPlus'
    cfg.optim_wrapper.type = 'mmengine.OptimWrapper'
    cfg.default_hooks.checkpoint.type = 'mmengine.CheckpointHook'
    return cfg


def derived(cfg: Config) -> Config:
    cfg = with_classes(cfg)
    cfg.test_evaluator.type = OwnMetric
    return cfg


def without_a_scope(cfg: Config) -> Config:
    cfg = with_classes(cfg)
    cfg.default_scope = None
    return load_config(cfg, work_dir=cfg.work_dir)


STYLES = [with_classes, scoped, derived, without_a_scope]


@pytest.mark.parametrize('style', STYLES)
def test_every_comparison_of_a_type(data, tmp_path, style):
    cfg = style(config(data, tmp_path))
    cfg.update(amp='bfloat16', gradient_checkpointing=True)
    apply_switches(cfg)
    assert cfg.optim_wrapper.type == BFloat16OptimWrapper.__name__
    assert cfg.model.backbone.with_cp is True
    cfg.test_evaluator.output_dir = 'elsewhere'
    assert tool.save_predictions(cfg, 'here') == 'here'
    assert len(cfg.test_evaluator) == 1 and 'output_dir' not in cfg.test_evaluator[0]
    cfg.tta_model, cfg.tta_pipeline = Config(dict(type='SegTTAModel'))._cfg_dict, TTA
    tool.use_tta(cfg, 'config')
    assert cfg.model.module.labels_only is False
    cfg.model.module.backbone.pop('with_cp')
    apply_switches(cfg)  # as the runner does, whose model is the one with the views
    assert cfg.model.module.backbone.with_cp is True
    runner = StrictRunner.from_cfg(style(config(data, tmp_path)))
    kinds = {type(hook).__name__ for hook in runner.hooks}
    assert 'DurableCheckpointHook' in kinds and 'CheckpointHook' not in kinds


def test_another_metric_or_wrapper_is_still_another(data, tmp_path):
    cfg = with_classes(config(data, tmp_path))
    cfg.test_evaluator = dict(type='CityscapesMetric', output_dir='x')
    assert tool.save_predictions(cfg, 'here') is None
    assert cfg.test_evaluator.output_dir == 'here'
    cfg.test_evaluator = dict(type='DepthMetric')
    assert tool.save_predictions(cfg, 'here') is None
    assert cfg.test_evaluator[1]['out_file_path'] == 'here/predictions.pkl'
    cfg.update(amp='bfloat16')
    cfg.optim_wrapper.type = 'ApexOptimWrapper'
    with pytest.raises(SegformerPlusPlusError, match='not ApexOptimWrapper'):
        apply_switches(cfg)


def test_a_training_and_a_test_of_classes_are_those_of_names(data, calm, tmp_path):
    cfg = with_classes(config(data, tmp_path / 'work', **{'train_cfg.max_iters': 1}))
    assert_same(trained(cfg) / 'iter_1.pth', calm / 'iter_1.pth')


def wrap(kind: str, dataset: dict, folder: Path) -> dict:
    (folder / 'list.txt').write_text('images/val/1.png\n')
    return {
        'plain': dataset,
        'LeaveOut': dict(type='LeaveOut', leave_out=str(folder / 'list.txt'), dataset=dataset),
        'RepeatDataset': dict(type='RepeatDataset', times=1, dataset=dataset),
        'ConcatDataset': dict(
            type='ConcatDataset',
            datasets=[dataset, dict(dataset, data_prefix=dict(
                img_path='images/train', seg_map_path='labels/train'))],
        ),
    }[kind]  # fmt: skip


@pytest.mark.parametrize('kind', ['plain', 'LeaveOut', 'RepeatDataset', 'ConcatDataset'])
def test_augmentation_in_a_test_reaches_the_data_in_a_wrapper(data, tmp_path, kind):
    cfg = validated(config(data, tmp_path))
    cfg.test_dataloader.dataset = wrap(kind, cfg.test_dataloader.dataset, tmp_path)
    cfg.tta_model, cfg.tta_pipeline = Config(dict(type='SegTTAModel'))._cfg_dict, TTA
    tool.use_tta(cfg, 'config')
    loader = StrictRunner.from_cfg(cfg).build_dataloader(cfg.test_dataloader)
    count = {'plain': 5, 'LeaveOut': 4, 'RepeatDataset': 5, 'ConcatDataset': 13}[kind]
    views = [len(batch['inputs']) for batch in loader]
    assert views == [2] * count


def folders(data: Path, root: Path) -> Path:
    """Copies two images, mirrored in the second folder; two of one stem in the first."""
    for kind in ('images', 'labels'):
        for folder, flip in (('a', False), ('b', True)):
            (root / kind / folder).mkdir(parents=True)
            for number in range(2):
                pixels = cv2.imread(str(data / kind / 'val' / f'{number}.png'), -1)
                pixels = np.ascontiguousarray(pixels[:, ::-1]) if flip else pixels
                cv2.imwrite(str(root / kind / folder / f'{number}.png'), pixels)
    return root


@pytest.mark.parametrize('concatenated', [False, True])
def test_files_of_one_name_in_several_folders(data, calm, tmp_path, concatenated):
    root = folders(data, tmp_path / 'data')
    cfg = config(root, tmp_path / 'work')
    dataset = cfg.test_dataloader.dataset
    prefix = dict(img_path='images', seg_map_path='labels')
    dataset.update(data_prefix=prefix)
    if concatenated:
        parts = [{k: f'{v}/{part}' for k, v in prefix.items()} for part in 'ab']
        datasets = [dict(dataset, data_prefix=part) for part in parts]
        cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=datasets)
    cfg.visualizer = dict(type='SegLocalVisualizer', alpha=1.0)
    cfg.load_from = str(calm / 'iter_6.pth')
    masks, painted = tmp_path / 'masks', tmp_path / 'painted'
    runner = StrictRunner.from_cfg(cfg)
    seen = {}
    hook = SegmentationFilesHook(str(masks), str(painted))
    write = hook.after_test_iter

    def keep(runner, batch_idx, data_batch=None, outputs=None):
        seen.update({each.img_path: each.pred_sem_seg.data[0].numpy() for each in outputs})
        write(runner, batch_idx, data_batch, outputs)

    hook.after_test_iter = keep
    runner.register_hook(hook)
    runner.test()
    names = sorted(str(path.relative_to(masks)) for path in masks.rglob('*.*'))
    assert names == ['a/0.png', 'a/1.png', 'b/0.png', 'b/1.png']
    assert names == sorted(str(path.relative_to(painted)) for path in painted.rglob('*.*'))
    for path, labels in seen.items():
        name = Path(path).relative_to(root / 'images')
        np.testing.assert_array_equal(cv2.imread(str(masks / name), -1), labels)
    assert (seen[str(root / 'images/a/0.png')] != seen[str(root / 'images/b/0.png')]).any()


def test_a_picture_that_finds_no_room_is_named(data, calm, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, 'No space left on device')

    cfg = config(data, tmp_path)
    cfg.visualizer = dict(type='SegLocalVisualizer')
    cfg.load_from = str(calm / 'iter_6.pth')
    runner = StrictRunner.from_cfg(cfg)
    runner.register_hook(SegmentationFilesHook(painted=str(tmp_path / 'painted')))
    monkeypatch.setattr(type(runner.visualizer), 'add_datasample', full)
    with pytest.raises(OSError, match='No space') as error:
        runner.test()
    assert error.value.filename == str(tmp_path / 'painted' / '0.png')


def test_files_of_one_stem_keep_their_suffix(tmp_path):
    class Images:
        data_prefix, data_root = dict(img_path='/x/images'), '/x'
        paths = '/x/images/a.jpg', '/x/images/a.png', '/x/images/b.png', '/y/a.png'

        def __len__(self):
            return len(self.paths)

        def get_data_info(self, index):
            return dict(img_path=self.paths[index])

    names = ['a.jpg', 'a.png', 'b', 'y/a']
    assert _file_names(Images()) == dict(zip(Images.paths, names, strict=True))


def test_one_class_is_painted_and_not_the_rest_whatever_the_loader_reads(tmp_path):
    """OpenCV, which mmseg paints with, cannot decode floats in colour."""
    path = tmp_path / 'a.tif'
    Image.fromarray(np.full((40, 60), 100, np.float32)).save(path)
    info = dict(img_path=str(path))

    class Images(list):
        data_prefix, data_root = {}, str(tmp_path)
        get_data_info = list.__getitem__

    visualizer = SegLocalVisualizer(alpha=0.5)
    visualizer.dataset_meta = dict(classes=('thing',), palette=[[0, 0, 255]])
    loader = dict(type='LoadImageFromFile', color_type='unchanged')
    cfg = Config(dict(default_scope='mmseg', test_dataloader=dict(dataset=dict(pipeline=[loader]))))
    runner = SimpleNamespace(
        cfg=cfg, visualizer=visualizer, test_dataloader=SimpleNamespace(dataset=Images([info]))
    )
    labels = torch.zeros(1, 40, 60, dtype=torch.int64)
    labels[..., 30:] = 1
    sample = SegDataSample(metainfo=info)
    sample.pred_sem_seg = PixelData(data=labels.clone())
    hook = SegmentationFilesHook(painted=str(tmp_path / 'painted'))
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, outputs=[sample])
    painted = cv2.imread(str(tmp_path / 'painted/a.png'))
    assert (painted[:, :28] == 50).all() and (painted[-3:, 32:] == [177, 50, 50]).all()
    assert (sample.pred_sem_seg.data == labels).all()


def test_labels_without_zero_are_numbered_as_in_the_data_set(data, calm, tmp_path):
    cfg = config(data, tmp_path)
    cfg.test_dataloader.dataset.reduce_zero_label = True
    pipeline = cfg.test_dataloader.dataset.pipeline
    pipeline[1].reduce_zero_label = True
    cfg.load_from = str(calm / 'iter_6.pth')
    shifted, plain = tmp_path / 'shifted', tmp_path / 'plain'
    for folder in (shifted, plain):
        runner = StrictRunner.from_cfg(cfg)
        runner.register_hook(SegmentationFilesHook(str(folder)))
        runner.test()
        pipeline[1].reduce_zero_label = cfg.test_dataloader.dataset.reduce_zero_label = False
    for path in plain.iterdir():
        with_zero = cv2.imread(str(path), -1)
        np.testing.assert_array_equal(cv2.imread(str(shifted / path.name), -1), with_zero + 1)


def test_a_visualizer_that_does_not_paint_is_named(data, calm, tmp_path):
    cfg = config(data, tmp_path)
    cfg.load_from = str(calm / 'iter_6.pth')
    runner = StrictRunner.from_cfg(cfg)
    runner.register_hook(SegmentationFilesHook(painted=str(tmp_path / 'painted')))
    with pytest.raises(SegformerPlusPlusError, match='SegLocalVisualizer'):
        runner.test()
