"""Tiny models with weights none of which is a default, and runtimes as a user calls them."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from inference.tiny import build_model

from segformer_plusplus.export.formats import openvino_core

WIDTHS = [8, 16, 40, 64]
RUNTIMES = ['onnxruntime', *(['openvino'] if find_spec('openvino') else [])]
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def backbone(token_merging):
    return dict(
        type='MixVisionTransformerPlusPlus', embed_dims=8, num_heads=(1, 2, 5, 8),
        num_layers=(1, 1, 1, 1), token_merging=token_merging,
    )  # fmt: skip


def segmentor_config(token_merging='none', bgr_to_rgb=True, **settings):
    head = dict(
        type='SegformerHeadPlusPlus', in_channels=WIDTHS, in_index=[0, 1, 2, 3], channels=16,
        num_classes=5, norm_cfg=dict(type='SyncBN'), align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    )  # fmt: skip
    return dict(
        dict(
            type='EncoderDecoderPlusPlus',
            data_preprocessor=dict(
                type='SegDataPreProcessor', mean=MEAN, std=STD, bgr_to_rgb=bgr_to_rgb
            ),
            backbone=backbone(token_merging),
            decode_head=head,
            test_cfg=dict(mode='whole'),
        ),
        **settings,
    )


def pose_config(token_merging='none'):
    codec = dict(type='MSRAHeatmap', input_size=(48, 64), heatmap_size=(12, 16), sigma=2)
    return dict(
        type='TopdownPoseEstimator',
        data_preprocessor=dict(type='PoseDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True),
        backbone=backbone(token_merging),
        head=dict(type='SegformerHeatmapHead', in_channels=WIDTHS, out_channels=7, channels=16,
                  decoder=codec),
    )  # fmt: skip


def randomise(model, seed=1):
    """Initial weights hide mistakes: all biases are 0, all norms do the same."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            # not the normalisation of the images, which is a setting
            if tensor.is_floating_point() and not name.startswith('data_preprocessor'):
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.add_(noise if 'running_var' in name else 0.4 * (noise - 0.5))
    return model


def build_segmentor(**settings):
    return randomise(build_model(segmentor_config(**settings)))


def build_pose(**settings):
    return randomise(build_model(pose_config(**settings), scope='mmpose'))


def plain_onnx(path, images):
    onnxruntime = pytest.importorskip('onnxruntime')
    (result,) = onnxruntime.InferenceSession(str(path)).run(None, {'images': images.numpy()})
    return result


def plain_openvino(path, images):
    """As a user does it, but for the runtime, of which a process must have one only."""
    compiled = openvino_core().compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    return compiled(images.numpy())[0]


def plain_torch(path, images):
    with torch.no_grad():
        return torch.export.load(path).module()(images).numpy()


def check_close(result, model, images):
    """A file's result against the model in PyTorch."""
    head = model.decode_head if hasattr(model, 'decode_head') else model.head
    with torch.inference_mode():
        expected = head(model.extract_feat(images)).numpy()
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 1e-4 * np.abs(expected).max()
