"""Tests the hooks that a config names: the progress bar, and merge maps of every validation."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import SIZE, config, run, validated

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.token_merging import PRESETS
from segformer_plusplus.training.hooks import MergeMapHook, ProgressBarHook
from segformer_plusplus.training.runner import StrictRunner


@pytest.mark.filterwarnings('error')  # PyTorch warns where float() makes a loss a number
@pytest.mark.parametrize(('rank', 'start'), [(0, 0), (0, 3), (1, 0)])
def test_progress_bar(rank, start, capsys):
    runner = SimpleNamespace(rank=rank, max_iters=5, iter=start)
    hook = ProgressBarHook()
    hook.before_train(runner)
    for index in range(start, 5):
        loss = torch.tensor(0.125, requires_grad=True) * 2  # with a graph, as mmseg gives it
        hook.after_train_iter(runner, index, outputs=dict(loss=loss))
    hook.after_train(runner)
    shown = capsys.readouterr().err
    if rank:
        assert shown == ''
    else:
        assert '5/5' in shown and '100%' in shown and 'loss=0.25' in shown


def validating(data, work_dir, **hook):
    """Configures two iterations, each with a validation."""
    pytest.importorskip('mmseg')
    cfg = validated(config(data, work_dir))
    cfg.train_cfg.update(max_iters=2, val_interval=1)
    cfg.custom_hooks = [dict(type='MergeMapHook', **hook)]
    cfg.visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
    return cfg


def logged(work_dir):
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if any(key.startswith('merge_map_') for key in line)]


def test_every_validation_logs_pictures_and_counts(data, tmp_path):
    run(validating(data, tmp_path, images=2))
    pictures = list(tmp_path.glob('*/vis_data/vis_image/*.png'))
    assert {path.name for path in pictures} == {
        f'merge_map_{image}_{step}.png' for image in (0, 1) for step in (1, 2)
    }
    for path in pictures:
        assert np.asarray(Image.open(path)).std() > 10
    found = logged(tmp_path)
    assert len(found) == 4 and [line['step'] for line in found] == [1, 1, 2, 2]
    for number, line in enumerate(found):
        name = f'merge_map_{number % 2}'
        for stage, (role, settings) in enumerate(
            (next(iter(stage.items())) for stage in PRESETS['hq']['stages']), start=1
        ):
            side = 32 if role == 'kv' else 4 * 2 ** (stage - 1)
            tokens = (SIZE // side) ** 2
            left = tokens - int(tokens * settings['ratio'])
            where = f'{name}/stage{stage}_{role}'
            assert line[f'{where}_tokens'] == left
            assert line[f'{where}_share_merged'] == pytest.approx(1 - left / tokens)
        assert 0 <= line[f'{name}/share_changed'] <= 1


def test_interval_of_merge_maps(data, tmp_path):
    run(validating(data, tmp_path, interval=2))
    assert [line['step'] for line in logged(tmp_path)] == [1]


def test_a_backbone_that_does_not_merge_is_refused_before_training(data, tmp_path):
    cfg = validating(data, tmp_path)
    cfg.model.backbone = dict(
        type='MixVisionTransformer', embed_dims=8, num_heads=(1, 2, 5, 8), num_layers=(1, 1, 1, 1)
    )
    runner = StrictRunner.from_cfg(cfg)
    with pytest.raises(SegformerPlusPlusError, match='call apply_token_merging first'):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize('name', ['interval', 'images'])
@pytest.mark.parametrize('value', [0, -1, 1.5, '1'])
def test_wrong_settings_of_merge_maps_are_named(name, value):
    with pytest.raises(SegformerPlusPlusError, match=f'{name}={value!r} is not an integer >= 1'):
        MergeMapHook(**{name: value})
