"""A tiny model of ours for the tests of the benchmark."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from inference.tiny import build_model
from torch import nn

WIDTHS = [8, 16, 40, 64]


def tiny_config(head: str = 'SegformerLinearHead', **backbone: Any) -> dict[str, Any]:
    """Returns the config of one block a stage, 8 channels a head."""
    return dict(
        type='EncoderDecoderPlusPlus',
        data_preprocessor=dict(type='SegDataPreProcessor'),
        backbone=dict(
            dict(
                type='MixVisionTransformerPlusPlus', embed_dims=8, num_heads=(1, 2, 5, 8),
                num_layers=(1, 1, 1, 1), token_merging='none', drop_path_rate=0.5,
                init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'),
            ),
            **backbone,
        ),
        decode_head=dict(
            type=head, in_channels=WIDTHS, in_index=[0, 1, 2, 3], channels=16, num_classes=5,
            dropout_ratio=0.5, norm_cfg=dict(type='SyncBN'), align_corners=False,
            loss_decode=dict(type='CrossEntropyLoss'),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )  # fmt: skip


def build_tiny(**settings: Any) -> nn.Module:
    """Builds the model of :func:`tiny_config` with weights none of which is a default.

    Initial weights hide mistakes: all biases are 0, all norms do the same.
    """
    model = build_model(tiny_config(**settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.add_(noise if 'running_var' in name else 0.4 * (noise - 0.5))
    return model


@pytest.fixture
def tiny() -> tuple[Callable[..., dict[str, Any]], Callable[..., nn.Module]]:
    """The config and the model, as functions of settings."""
    return tiny_config, build_tiny


def build_peer(library: str, config: dict[str, Any], ours: nn.Module) -> Any:
    """Returns the contender of another library with the weights of ours."""
    from segformer_plusplus.evaluation.benchmark import peers
    from segformer_plusplus.evaluation.benchmark.contenders import OpenMMLabModel

    if library != 'mmseg':
        pytest.importorskip(library)
        if library == 'transformers':
            return peers.TransformersModel(config, ours)
        return peers.OpenVinoModel(ours, 'a test')
    theirs = build_model(peers.mmseg_peer(config))
    peers.make_levels_linear(theirs, ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return OpenMMLabModel(theirs)
