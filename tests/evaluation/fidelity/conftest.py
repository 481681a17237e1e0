"""A tiny segmentor on drawn street scenes, and a tiny pose estimator on drawn jumpers."""

from pathlib import Path

import pytest
import torch
from inference.tiny import POSE, SEGMENTATION

SCENES = """
model['decode_head']['num_classes'] = 19
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CityscapesDataset', data_root={root!r},
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=[
            dict(type='CheckedLoadImageFromFile'),
            dict(type='Resize', scale=(256, 128), keep_ratio=True),
            dict(type='CheckedLoadAnnotations', num_classes=19),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_cfg = dict()
"""

JUMPERS = """
model['head']['out_channels'] = 20
model['head']['decoder'].update(input_size=(96, 128), heatmap_size=(24, 32))
test_dataloader = dict(
    batch_size=2, num_workers=0, drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(
        type='JumpBroadcastDataset', data_root={root!r}, data_mode='topdown',
        ann_file='annotations/val_jump.json', data_prefix=dict(img='images/val/'), test_mode=True,
        pipeline=[
            dict(type='CheckedLoadImage'),
            dict(type='GetBBoxCenterScale'),
            dict(type='TopdownAffine', input_size=(96, 128)),
            dict(type='PackPoseInputs'),
        ],
    ),
)
test_evaluator = dict(type='BoxPCK', thresholds=(0.1, 0.05))
test_cfg = dict()
"""


def write(folder: Path, text: str, seed: int) -> tuple[Path, Path]:
    """Writes config and checkpoint, whose predictions vary over the image."""
    from inference.tiny import build_model
    from mmengine.config import Config

    config, checkpoint = folder / 'config.py', folder / 'weights.pth'
    config.write_text(text)
    cfg = Config.fromfile(str(config))
    model = build_model(cfg.model, cfg.default_scope)
    generator = torch.Generator().manual_seed(seed)
    state = {
        key: value + 0.5 * torch.randn(value.shape, generator=generator)
        if value.is_floating_point() and 'running_var' not in key
        else value
        for key, value in model.state_dict().items()
    }
    torch.save(dict(state_dict=state, meta={}), checkpoint)
    return config, checkpoint


@pytest.fixture
def warnings(monkeypatch, request) -> list[str]:
    """Returns what the log is told by the part whose test this is, segmentation or pose."""
    said: list[str] = []
    part = request.module.__name__.rpartition('test_')[2]
    log = f'segformer_plusplus.evaluation.fidelity.{part}.print_log'
    monkeypatch.setattr(log, lambda text, **_: said.append(text))
    return said


@pytest.fixture(scope='session')
def scenes(tmp_path_factory) -> tuple[Path, Path]:
    """Returns config and checkpoint; there are 3 images of 128x256."""
    pytest.importorskip('mmseg')
    from tools.dataset_generators.layouts import LAYOUTS
    from tools.dataset_generators.writing import write as draw

    folder = tmp_path_factory.mktemp('scenes')
    draw(LAYOUTS['cityscapes'], folder / 'data', train=1, val=3, size=(128, 256), seed=0, workers=1)
    text = SEGMENTATION + SCENES.format(root=str(folder / 'data'))
    return write(folder, text, seed=0)


@pytest.fixture(scope='session')
def jumpers(tmp_path_factory) -> tuple[Path, Path]:
    """Returns config and checkpoint; there are 5 people."""
    pytest.importorskip('mmpose')
    pytest.importorskip('xtcocotools')
    from tools.dataset_generators.layouts import LAYOUTS
    from tools.dataset_generators.writing import write as draw

    folder = tmp_path_factory.mktemp('jumpers')
    draw(LAYOUTS['jbd'], folder / 'data', train=1, val=5, size=(270, 480), seed=0, workers=1)
    return write(folder, POSE + JUMPERS.format(root=str(folder / 'data')), seed=0)
