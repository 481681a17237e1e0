"""The tools, run on a tiny model and a handful of synthetic scenes: what works, what is refused."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from tools.dataset_generators.layouts import LAYOUTS
from tools.dataset_generators.writing import write

pytest.importorskip('mmseg')

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
CONFIG = """
custom_imports = dict(imports=['segformer_plusplus'], allow_failed_imports=False)
default_scope = 'mmseg'
root = {root!r}
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True, pad_val=0, seg_pad_val=255, size=(64, 128)),
    backbone=dict(type='MixVisionTransformerPlusPlus', arch='b0', token_merging='hq'),
    decode_head=dict(
        type='SegformerHeadPlusPlus', in_channels=[32, 64, 160, 256], in_index=[0, 1, 2, 3],
        channels=16, num_classes=19, norm_cfg=dict(type='SyncBN'), align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
pipeline = [dict(type='CheckedLoadImageFromFile'),
            dict(type='CheckedLoadAnnotations', num_classes=19), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'),
    dataset=dict(type='CityscapesDataset', data_root=root, pipeline=pipeline, data_prefix=dict(
        img_path='leftImg8bit/train', seg_map_path='gtFine/train')))
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CityscapesDataset', data_root=root, pipeline=pipeline, data_prefix=dict(
        img_path='leftImg8bit/val', seg_map_path='gtFine/val')))
test_evaluator = dict(type='IoUMetric')
test_cfg = dict()
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=6e-5))
param_scheduler = [dict(type='PolyLR', begin=0, end=4, by_epoch=False)]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
    visualization=dict(type='SegVisualizationHook'))
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(by_epoch=False)
tta_model = dict(type='SegTTAModel')
tta_pipeline = [pipeline[0], dict(type='TestTimeAug', transforms=[
    [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
    [pipeline[1]], [pipeline[2]]])]
"""
B1 = ['model.backbone.arch=b1', 'model.decode_head.in_channels=[64,128,320,512]']


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f'tools_{name}', TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train, evaluate = (load_tool(name).main for name in ('train', 'test'))


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> Path:
    """A folder with data, a config, and a checkpoint after two iterations."""
    folder = tmp_path_factory.mktemp('tools')
    write(LAYOUTS['cityscapes'], folder / 'data', train=4, val=2, size=(64, 128), progress=False)
    (folder / 'tiny.py').write_text(CONFIG.format(root=str(folder / 'data')))
    assert train([str(folder / 'tiny.py'), '--work-dir', str(folder / 'work')]) == 0
    assert (folder / 'work' / 'iter_2.pth').is_file()
    return folder


@pytest.fixture
def damaged(place, tmp_path) -> Path:
    """A copy of the data to damage, and a config for it."""
    shutil.copytree(place / 'data', tmp_path / 'data')
    (tmp_path / 'tiny.py').write_text(CONFIG.format(root=str(tmp_path / 'data')))
    return tmp_path


def refused(capfd, main, *argv: object) -> str:
    """The one line of an error that a tool must end with."""
    capfd.readouterr()
    assert main([str(argument) for argument in argv]) == 2
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1, captured.err
    assert 'Traceback' not in captured.err
    return lines[0]


def log_of(work_dir: Path) -> str:
    return '\n'.join(path.read_text() for path in sorted(work_dir.glob('*/*.log')))


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*.png'))


def test_resume_goes_on_where_training_stopped(place, tmp_path):
    shutil.copy(place / 'work' / 'iter_2.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    longer = ['--cfg-options', 'train_cfg.max_iters=4']
    assert train([str(place / 'tiny.py'), '--work-dir', str(tmp_path), '--resume', *longer]) == 0
    log = log_of(tmp_path)
    assert 'resumed epoch: 0, iter: 2' in log
    assert 'Iter(train) [3/4]' in log and 'Iter(train) [1/4]' not in log
    checkpoint = torch.load(tmp_path / 'iter_4.pth', weights_only=False)
    assert checkpoint['meta']['iter'] == 4
    # AdamW counted the two iterations before and the two after
    assert {float(s['step']) for s in checkpoint['optimizer']['state'].values()} == {4.0}


def test_resume_with_nothing_to_resume_starts_anew_and_says_so(place, tmp_path, capfd):
    assert train([str(place / 'tiny.py'), '--work-dir', str(tmp_path), '--resume']) == 0
    captured = capfd.readouterr()
    assert 'nothing to resume in' in captured.out + captured.err
    assert (tmp_path / 'iter_2.pth').is_file()


def test_resume_from_bare_weights_is_refused(place, tmp_path, capfd):
    whole = torch.load(place / 'work' / 'iter_2.pth', weights_only=False)
    torch.save(whole['state_dict'], tmp_path / 'bare.pth')
    argv = [place / 'tiny.py', '--work-dir', tmp_path, '--resume', tmp_path / 'bare.pth']
    assert 'bare.pth: it holds no training state' in refused(capfd, train, *argv)


def test_test_writes_metrics_and_predictions(place, tmp_path):
    metrics = tmp_path / 'metrics.json'
    argv = [place / 'tiny.py', place / 'work' / 'iter_2.pth', '--work-dir', tmp_path / 'work']
    argv += ['--token-merging', 'fast', '--out', tmp_path / 'out', '--metrics-json', metrics]
    assert evaluate([str(argument) for argument in argv]) == 0
    assert set(json.loads(metrics.read_text())) == {'aAcc', 'mIoU', 'mAcc'}
    predictions = below(tmp_path / 'out')
    assert predictions == [name for name in below(place / 'data/leftImg8bit/val') if '.png' in name]
    assert cv2.imread(str(tmp_path / 'out' / predictions[0])).shape == (64, 128, 3)


def test_test_with_augmentation_and_painting(place, tmp_path):
    argv = [place / 'tiny.py', place / 'work' / 'iter_2.pth', '--work-dir', tmp_path / 'work']
    argv += ['--tta', '--show-dir', tmp_path / 'shown']
    assert evaluate([str(argument) for argument in argv]) == 0
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 2


def test_lenient_loading_has_to_be_asked_for(place, tmp_path, capfd):
    argv = [place / 'tiny.py', place / 'work' / 'iter_2.pth', '--work-dir', tmp_path]
    argv += ['--cfg-options', *B1]
    message = refused(capfd, evaluate, *argv)
    assert 'iter_2.pth' in message and 'backbone.layers' in message
    assert evaluate([str(argument) for argument in [*argv, 'strict_load=False']]) == 0


def test_a_missing_config_as_a_user_sees_it():
    argv = [sys.executable, str(TOOLS / 'train.py'), 'no/such/config.py']
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert 'error: config not found: no/such/config.py' in done.stderr.splitlines()
    assert 'Traceback' not in done.stderr


def test_a_missing_data_root(place, tmp_path, capfd):
    option = f'train_dataloader.dataset.data_root={tmp_path / "nowhere"}'
    argv = [place / 'tiny.py', '--work-dir', tmp_path, '--cfg-options', option]
    message = refused(capfd, train, *argv)
    assert str(tmp_path / 'nowhere') in message
    assert '--cfg-options train_dataloader.dataset.data_root=' in message


def test_an_unknown_preset(place, tmp_path, capfd):
    argv = [place / 'tiny.py', place / 'work' / 'iter_2.pth', '--work-dir', tmp_path]
    message = refused(capfd, evaluate, *argv, '--token-merging', 'nope')
    assert "'nope'" in message and 'hq' in message


@pytest.mark.parametrize('fault', ['absent', 'truncated', 'text'])
def test_damaged_checkpoints(place, tmp_path, capfd, fault):
    path = tmp_path / f'{fault}.pth'
    if fault == 'truncated':
        path.write_bytes((place / 'work' / 'iter_2.pth').read_bytes()[:100_000])
    elif fault == 'text':
        path.write_text('not a checkpoint')
    message = refused(capfd, evaluate, place / 'tiny.py', path, '--work-dir', tmp_path)
    assert path.name in message


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('fault', ['unreadable', 'truncated', 'label'])
def test_damaged_data(damaged, capfd, fault, workers):
    folder = 'gtFine' if fault == 'label' else 'leftImg8bit'
    for path in (damaged / 'data' / folder / 'train').rglob('*.png'):
        if fault == 'unreadable':
            path.write_bytes(b'no image at all')
        elif fault == 'truncated':
            path.write_bytes(path.read_bytes()[:-200])
        else:
            cv2.imwrite(str(path), np.full((64, 128), 77, np.uint8))
    argv = [damaged / 'tiny.py', '--work-dir', damaged / 'work']
    argv += ['--cfg-options', f'train_dataloader.num_workers={workers}']
    message = refused(capfd, train, *argv)
    assert '.png' in message
    if fault == 'label':
        assert '77' in message
