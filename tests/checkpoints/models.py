"""Tiny models of every library with the same sizes, whose weights mean something."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from segformer_plusplus import MixVisionTransformerPlusPlus
from segformer_plusplus.segmentation import SegformerHeadPlusPlus, SegformerLinearHead

WIDTHS, HEADS, DEPTHS, DECODER, CLASSES = [8, 16, 40, 64], (1, 2, 5, 8), [1, 2, 1, 1], 24, 5


class Segmentor(nn.Module):
    """The parts of a segmentor that hold weights, under mmseg's names."""

    def __init__(self, linear=True, eps=1e-6, widths=WIDTHS, depths=DEPTHS, **head):
        super().__init__()
        self.backbone = MixVisionTransformerPlusPlus(
            embed_dims=widths[0], num_heads=HEADS, num_layers=depths,
            norm_cfg=dict(type='LN', eps=eps),
        )  # fmt: skip
        kind = SegformerLinearHead if linear else SegformerHeadPlusPlus
        index = range(len(head.get('in_channels', widths)))
        settings = dict(in_channels=widths, in_index=list(index), channels=DECODER)
        settings |= dict(num_classes=CLASSES, norm_cfg=dict(type='BN'), align_corners=False) | head
        self.decode_head = kind(**settings)

    def forward(self, image):
        return self.decode_head(self.backbone(image))


def randomise(model, seed=0):
    """Weights of a usual size, norms and running statistics that are not those of a new model."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            value.fill_(7)
        elif name.endswith('running_var') or (value.dim() == 1 and name.endswith('weight')):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.dim() == 1:
            value.normal_(0, 0.3, generator=generator)
        else:
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)
    return model.eval()


def images(seed=0):
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


def difference(actual, expected):
    """The largest difference over the largest value."""
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


def same(one, other):
    """The same keys, types and bits."""
    assert set(one) == set(other)
    for key, value in one.items():
        assert value.dtype == other[key].dtype and torch.equal(value, other[key]), key


def from_transformers_library(kind='SegformerForSemanticSegmentation', seed=0, **changes):
    """A model of Transformers itself."""
    transformers = pytest.importorskip('transformers')
    settings = dict(
        hidden_sizes=WIDTHS, num_attention_heads=list(HEADS), depths=DEPTHS,
        decoder_hidden_size=DECODER, num_labels=CLASSES,
    )  # fmt: skip
    config = transformers.SegformerConfig(**{**settings, **changes})
    return randomise(getattr(transformers, kind)(config), seed)


RENAMED = [
    (r'^segformer\.stages\.(\d)\.patch_embeddings\.proj', r'backbone.patch_embed<\1>.proj'),
    (r'^segformer\.stages\.(\d)\.patch_embeddings\.layer_norm', r'backbone.patch_embed<\1>.norm'),
    (r'^segformer\.stages\.(\d)\.layer_norm', r'backbone.norm<\1>'),
    (r'^segformer\.stages\.(\d)\.blocks', r'backbone.block<\1>'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.attention\.sequence_reduction\.sequence_reduction\.', '.attn.sr.'),
    (r'\.attention\.sequence_reduction\.layer_norm\.', '.attn.norm.'),
    (r'\.attention\.o_proj\.', '.attn.proj.'),
    (r'\.attention\.([qkv])_proj\.', r'.attn.\1.'),
    (r'^decode_head\.linear_projections\.(\d)\.', r'decode_head.linear_c<\1>.'),
    (r'^decode_head\.linear_fuse\.', 'decode_head.linear_fuse.conv.'),
    (r'^decode_head\.batch_norm\.', 'decode_head.linear_fuse.bn.'),
    (r'^decode_head\.classifier\.', 'decode_head.linear_pred.'),
]
"""Names of Transformers since 5.9 and of NVlabs, written by hand; <i> is counted from 1."""


def nvlabs_reference(seed=0):
    """The published architecture with NVlabs' keys: (state dict, model that computes its logits).

    The model is that of Transformers, with the eps of the original: 1e-6 in the norms of blocks and
    stages, 1e-5 in the others.
    """
    model = from_transformers_library(seed=seed)
    for name, module in model.named_modules():
        if name.endswith(('layernorm_before', 'layernorm_after')) or (
            name.endswith('.layer_norm') and name.count('.') == 3
        ):
            module.eps = 1e-6
    state = {}
    for key, value in model.state_dict().items():
        for old, new in RENAMED:
            key = re.sub(old, new, key)
        state[re.sub(r'<(\d)>', lambda found: str(int(found[1]) + 1), key)] = value
    for key in [key for key in state if '.attn.k.' in key]:
        both = [state.pop(key), state.pop(key.replace('.k.', '.v.'))]
        state[key.replace('.k.', '.kv.')] = torch.cat(both)
    # every head of theirs inherits it, this one never calls it
    state['decode_head.conv_seg.weight'] = torch.ones(CLASSES, 16, 1, 1)
    state['decode_head.conv_seg.bias'] = torch.ones(CLASSES)
    return state, model
