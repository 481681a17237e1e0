"""The hook in a training of two iterations: pictures and token counts of every validation."""

import json

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.token_merging import PRESETS
from segformer_plusplus.training.hooks import MergeMapHook
from segformer_plusplus.training.runner import StrictRunner
from tools.dataset_generators.layouts import write_cityscapes

pytest.importorskip('mmseg')

SIZE = 128, 192


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes')
    write_cityscapes(folder, train=2, val=3, size=SIZE, progress=False)
    return folder


def config(data, work_dir, hook, backbone):
    pipeline = [
        dict(type='CheckedLoadImageFromFile'),
        dict(type='CheckedLoadAnnotations', num_classes=19),
        dict(type='PackSegInputs'),
    ]

    def loader(split, sampler):
        prefix = dict(img_path=f'leftImg8bit/{split}', seg_map_path=f'gtFine/{split}')
        dataset = dict(
            type='CityscapesDataset', data_root=str(data), pipeline=pipeline, data_prefix=prefix
        )
        return dict(batch_size=1, num_workers=0, sampler=sampler, dataset=dataset)

    head = dict(
        type='SegformerHeadPlusPlus', in_channels=[8, 16, 40, 64], in_index=[0, 1, 2, 3],
        channels=16, num_classes=19, norm_cfg=dict(type='BN'), align_corners=False,
    )  # fmt: skip
    preprocessor = dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True, size=SIZE,
    )  # fmt: skip
    model = dict(
        type='EncoderDecoderPlusPlus', data_preprocessor=preprocessor, backbone=backbone,
        decode_head=head, train_cfg=dict(), test_cfg=dict(mode='whole'),
    )  # fmt: skip
    return Config(
        dict(
            default_scope='mmseg',
            work_dir=str(work_dir),
            model=model,
            train_dataloader=loader('train', dict(type='InfiniteSampler')),
            val_dataloader=loader('val', dict(type='DefaultSampler', shuffle=False)),
            val_evaluator=dict(type='IoUMetric'),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=2, val_interval=1),
            val_cfg=dict(),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=6e-5)),
            custom_hooks=[dict(type='MergeMapHook', **hook)],
            visualizer=dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]),
            log_processor=dict(by_epoch=False),
        )
    )


OURS = dict(
    type='MixVisionTransformerPlusPlus', embed_dims=8, num_heads=[1, 2, 5, 8],
    num_layers=[1, 1, 1, 1], token_merging='hq',
)  # fmt: skip


def logged(work_dir):
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if any(key.startswith('merge_map_') for key in line)]


def test_every_validation_logs_pictures_and_counts(data, tmp_path):
    StrictRunner.from_cfg(config(data, tmp_path, dict(images=2), OURS)).train()
    pictures = list(tmp_path.glob('*/vis_data/vis_image/*.png'))
    assert {path.name for path in pictures} == {
        f'merge_map_{image}_{step}.png' for image in (0, 1) for step in (1, 2)
    }
    for path in pictures:
        assert np.asarray(Image.open(path)).std() > 10
    found = logged(tmp_path)
    assert len(found) == 4 and [line['step'] for line in found] == [1, 1, 2, 2]
    height, width = SIZE
    for number, line in enumerate(found):
        name = f'merge_map_{number % 2}'
        for stage, (role, settings) in enumerate(
            (next(iter(stage.items())) for stage in PRESETS['hq']['stages']), start=1
        ):
            side = 32 if role == 'kv' else 4 * 2 ** (stage - 1)
            tokens = (height // side) * (width // side)
            left = tokens - int(tokens * settings['ratio'])
            where = f'{name}/stage{stage}_{role}'
            assert line[f'{where}_tokens'] == left
            assert line[f'{where}_share_merged'] == pytest.approx(1 - left / tokens)
        assert 0 <= line[f'{name}/share_changed'] <= 1


def test_interval(data, tmp_path):
    StrictRunner.from_cfg(config(data, tmp_path, dict(interval=2), OURS)).train()
    assert [line['step'] for line in logged(tmp_path)] == [1]


def test_a_backbone_that_does_not_merge_is_refused_before_training(data, tmp_path):
    backbone = {key: value for key, value in OURS.items() if key != 'token_merging'}
    backbone['type'] = 'MixVisionTransformer'
    runner = StrictRunner.from_cfg(config(data, tmp_path, {}, backbone))
    with pytest.raises(SegformerPlusPlusError, match='call apply_token_merging first'):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize('name', ['interval', 'images'])
@pytest.mark.parametrize('value', [0, -1, 1.5, '1'])
def test_settings(name, value):
    with pytest.raises(SegformerPlusPlusError, match=f'{name}={value!r} is not an integer >= 1'):
        MergeMapHook(**{name: value})
