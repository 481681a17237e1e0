"""Tiny models of every library whose backbone can be patched, and ours with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from checkpoints.models import DEPTHS, WIDTHS, from_transformers_library, randomise
from mmengine.registry import MODELS, init_default_scope as scope
from torch import nn

from segformer_plusplus import TOKEN_MERGERS, MixVisionTransformerPlusPlus, TokenMerger
from segformer_plusplus.checkpoints import convert
from segformer_plusplus.token_merging.plans import CellPlan

HEADS = [1, 2, 5, 8]
SIZES = dict(embed_dims=8, num_heads=HEADS, num_layers=DEPTHS)


class Case(NamedTuple):
    """A library's model.

    ``build`` makes a new one, ``output`` runs it whole, ``backbone`` finds the part whose features
    ``features`` gives for an image.
    """

    build: Callable[..., nn.Module]
    output: Callable[[Any, torch.Tensor], torch.Tensor]
    backbone: Callable[[Any], nn.Module]
    features: Callable[[Any, torch.Tensor], list[torch.Tensor]]


@TOKEN_MERGERS.register_module()
class EveryThirdRow(TokenMerger):
    """A strategy that a user may have registered."""

    def __init__(self, height: int = 3) -> None:
        self.height = height

    def plan(self, tokens, grid):
        return CellPlan(grid, (self.height, 1), tokens.device)


BOTH = [
    dict(q='NeighborMerging2d', kv=dict(type='BipartiteSoftMatching1d', ratio=0.5)),
    dict(kv=dict(type='TomesdMatching', ratio=0.3)),
    dict(q=dict(type='EveryThirdRow', height=2), kv='EveryThirdRow'),
    {},
]
"""Queries, keys and values at once; strategies of ours, of tomesd and of a user."""


def mmseg_backbone(**changes):
    return dict(type='mmseg.MixVisionTransformer', **{**SIZES, **changes})


def mmseg_segmentor(seed=0, backbone=None, head='SegformerHead', **changes):
    pytest.importorskip('mmseg.models')
    scope('mmseg')
    decode_head = dict(
        type=head, in_channels=WIDTHS, in_index=[0, 1, 2, 3], channels=16,
        num_classes=5, norm_cfg=dict(type='BN'), align_corners=False, dropout_ratio=0.0,
    )  # fmt: skip
    backbone = backbone or mmseg_backbone(**changes)
    model = MODELS.build(
        dict(type='mmseg.EncoderDecoder', backbone=backbone, decode_head=decode_head, test_cfg={})
    )
    return randomise(model, seed)


def own_segmentor(seed=0, **changes):
    backbone = dict(type='MixVisionTransformerPlusPlus', **{**SIZES, **changes})
    return mmseg_segmentor(seed, backbone, 'SegformerHeadPlusPlus')


def mmpose_estimator(seed=0, **changes):
    pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it
    pytest.importorskip('mmpose.models')
    scope('mmpose')
    codec = dict(type='MSRAHeatmap', input_size=(48, 64), heatmap_size=(12, 16), sigma=2)
    head = dict(
        type='SegformerHeatmapHead', in_channels=WIDTHS, out_channels=4, channels=16, decoder=codec
    )
    backbone = mmseg_backbone(**changes)
    model = MODELS.build(dict(type='mmpose.TopdownPoseEstimator', backbone=backbone, head=head))
    return randomise(model, seed)


def transformers_model(kind):
    def build(seed=0, **changes):
        settings = dict(
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, drop_path_rate=0.0,
            classifier_dropout_prob=0.0,
        )  # fmt: skip
        return from_transformers_library(kind, seed, **{**settings, **changes})

    return build


def smp_model(name):
    def build(seed=0):
        smp = pytest.importorskip('segmentation_models_pytorch')
        model = getattr(smp, name)('mit_b0', encoder_weights=None, classes=3)
        model.encoder.reset_drop_path(0.0)
        if name == 'Segformer':
            model.decoder.fuse_stage.dropout = nn.Identity()
        return randomise(model, seed)

    return build


def _mm(build):
    return Case(
        build,
        lambda model, image: model(image, None, mode='tensor'),
        lambda model: model.backbone,
        lambda backbone, image: list(backbone(image)),
    )


def _hf(kind, output, backbone=lambda model: model.segformer):
    return Case(
        transformers_model(kind),
        lambda model, image: getattr(model(image), output),
        backbone,
        lambda part, image: list(part(image, output_hidden_states=True).hidden_states),
    )


def _smp(name):
    return Case(
        smp_model(name),
        lambda model, image: model(image),
        lambda model: model.encoder,
        lambda encoder, image: encoder(image)[2:],
    )


CASES = {
    'mmseg': _mm(mmseg_segmentor),
    'mmpose': _mm(mmpose_estimator),
    'own': _mm(own_segmentor),
    'SegformerModel': _hf('SegformerModel', 'last_hidden_state', lambda model: model),
    'SegformerForSemanticSegmentation': _hf('SegformerForSemanticSegmentation', 'logits'),
    'SegformerForImageClassification': _hf('SegformerForImageClassification', 'logits'),
    'smp.Segformer': _smp('Segformer'),
    'smp.Unet': _smp('Unet'),
}
HOSTS = ['mmseg', 'SegformerForSemanticSegmentation', 'smp.Segformer']
"""One model of each library."""

every_case = pytest.mark.parametrize('case', CASES.values(), ids=CASES)
every_host = pytest.mark.parametrize('case', [CASES[name] for name in HOSTS], ids=HOSTS)


def same_eps(model):
    """No weight, but part of the numbers: the libraries differ in it."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    return model


def ours_with_weights_of(backbone, strategy):
    """Our backbone, an implementation of its own, with the weights of another library's."""
    state = convert(backbone.state_dict()).state
    arch = dict(SIZES)
    if state['layers.0.0.projection.weight'].shape[0] == 32:
        arch = dict(arch='b0')
    ours = MixVisionTransformerPlusPlus(**arch, token_merging=strategy)
    ours.load_state_dict(state, strict=True)
    return same_eps(ours).eval()
