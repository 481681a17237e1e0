"""Traces the models on a GPU that is not there: what mixes devices, or types, fails here too."""

import pytest
import torch
from mmseg.registry import MODELS

import segformer_plusplus  # noqa: F401  what a config names is registered
from segformer_plusplus.token_merging import PRESETS

MIXED = [
    dict(kv=dict(type='BipartiteSoftMatching1d', ratio=0.5)),
    dict(kv=dict(type='TomesdMatching', ratio=0.6, seed=None)),
    dict(kv=dict(type='NeighborMerging1d', stride=2)),
    dict(kv='NeighborMerging2d'),
]
"""Those that no preset has, one a stage."""

BACKBONE = dict(type='MixVisionTransformerPlusPlus', arch='b0')
HEAD = dict(
    type='SegformerHeadPlusPlus',
    in_channels=[32, 64, 160, 256],
    channels=64,
    num_classes=5,
    norm_cfg=dict(type='BN'),
)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('preset', [*PRESETS, MIXED], ids=[*PRESETS, 'mixed'])
def test_logits_stay_on_the_device_and_in_the_type(preset, training, dtype, no_gpu):
    with no_gpu:
        backbone, head = build(dict(BACKBONE, token_merging=preset), dtype), build(HEAD, dtype)
        image = torch.empty(2, 3, 64, 96, device='cuda', dtype=dtype)
        logits = head.train(training)(backbone.train(training)(image))
    assert (logits.device.type, logits.dtype) == ('cuda', dtype)
    assert logits.shape[:2] == (2, 5)


def build(settings, dtype):
    """Nothing can be moved there, so that all is made there."""
    torch.set_default_dtype(dtype)
    try:
        with torch.device('cuda'):
            return MODELS.build(settings)
    finally:
        torch.set_default_dtype(torch.float32)
