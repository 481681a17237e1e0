"""Configs of a tiny segmentor and a tiny pose estimator."""

from pathlib import Path

import torch
from mmengine import registry
from mmengine.config import Config

from segformer_plusplus.registration import StandIn, component

SEGMENTATION = """
custom_imports = dict(imports=['segformer_plusplus'])
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoderPlusPlus',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True, pad_val=0, seg_pad_val=255,
    ),
    backbone=dict(
        type='MixVisionTransformerPlusPlus', embed_dims=8, num_heads=(1, 2, 5, 8),
        num_layers=(1, 1, 1, 1), token_merging='none',
        init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'),
    ),
    decode_head=dict(
        type='SegformerHeadPlusPlus', in_channels=[8, 16, 40, 64], in_index=[0, 1, 2, 3],
        channels=16, num_classes=5, norm_cfg=dict(type='SyncBN'), align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
test_dataloader = dict(dataset=dict(
    type='BaseSegDataset',
    metainfo=dict(
        classes=('road', 'car', 'sky', 'tree', 'house'),
        palette=[[128, 64, 128], [0, 0, 142], [70, 130, 180], [107, 142, 35], [70, 70, 70]],
    ),
    pipeline=[
        dict(type='CheckedLoadImageFromFile'),
        dict(type='Resize', scale=(96, 64), keep_ratio=True),
        dict(type='CheckedLoadAnnotations', num_classes=5),
        dict(type='PackSegInputs'),
    ],
))
"""

POSE = """
custom_imports = dict(imports=['segformer_plusplus'])
default_scope = 'mmpose'
codec = dict(type='MSRAHeatmap', input_size=(48, 64), heatmap_size=(12, 16), sigma=2)
model = dict(
    type='TopdownPoseEstimator',
    data_preprocessor=dict(
        type='PoseDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='MixVisionTransformerPlusPlus', embed_dims=8, num_heads=(1, 2, 5, 8),
        num_layers=(1, 1, 1, 1), token_merging='none',
    ),
    head=dict(
        type='SegformerHeatmapHead', in_channels=[8, 16, 40, 64], out_channels=17, channels=16,
        decoder=codec,
    ),
    test_cfg=dict(flip_test=True, flip_mode='heatmap'),
)
test_dataloader = dict(dataset=dict(
    type='CocoDataset',
    pipeline=[
        dict(type='CheckedLoadImage'),
        dict(type='GetBBoxCenterScale'),
        dict(type='TopdownAffine', input_size=(48, 64)),
        dict(type='PackPoseInputs'),
    ],
))
"""


def with_classes(config, scope='mmseg'):
    """Copies a config so that each ``type`` is a class, as in mmengine's new style."""
    if isinstance(config, Config):
        return Config(with_classes(config.to_dict(), scope))
    if isinstance(config, list | tuple):
        return type(config)(with_classes(each, scope) for each in config)
    if not isinstance(config, dict):
        return config
    copied = {key: with_classes(value, scope) for key, value in config.items()}
    if isinstance(copied.get('type'), str):
        names = ['LOOPS', 'HOOKS', 'MODELS', 'DATASETS', 'TRANSFORMS', 'METRICS', 'OPTIM_WRAPPERS']
        names += ['OPTIMIZERS', 'DATA_SAMPLERS', 'PARAM_SCHEDULERS', 'VISUALIZERS', 'VISBACKENDS']
        kinds = [component(copied['type'], getattr(registry, name), scope) for name in names]
        copied['type'] = next((kind for kind in kinds if kind is not None), copied['type'])
        if isinstance(copied['type'], StandIn):
            copied['type'] = copied['type']._resolve()
    return copied


def build_model(model, scope='mmseg', **options):
    """The model of a config's ``model`` with seeded weights, on the CPU."""
    from mmengine.config import Config

    from segformer_plusplus.inference.opening import open_model

    config = Config(dict(model=model, default_scope=scope))
    return open_model(config, random_weights=True, **dict(dict(device='cpu'), **options))


def write_model(folder: Path, text: str) -> tuple[Path, Path]:
    """A config file and a checkpoint with random weights, none of which is a default."""
    from mmengine.config import Config

    folder.mkdir(parents=True, exist_ok=True)
    config, checkpoint = folder / 'config.py', folder / 'weights.pth'
    config.write_text(text)
    cfg = Config.fromfile(str(config))
    model = build_model(cfg.model, cfg.default_scope)
    state = {
        key: value + torch.rand(value.shape) * 0.4 if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    torch.save(dict(state_dict=state, meta={}), checkpoint)
    return config, checkpoint
