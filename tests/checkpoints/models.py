"""Tiny models of every library with the same sizes, whose weights mean something."""

from __future__ import annotations

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


def nvlabs_reference(seed=0):
    """The published architecture with NVlabs' keys: (state dict, model that computes its logits).

    The model is that of Transformers, with the eps of the original: 1e-6 in the norms of blocks and
    stages, 1e-5 in the others. Its keys are renamed here by hand, piece by piece.
    """
    model = from_transformers_library(seed=seed)
    for name, module in model.named_modules():
        if name.endswith(('layernorm_before', 'layernorm_after')) or (
            name.endswith('.layer_norm') and name.count('.') == 3
        ):
            module.eps = 1e-6
    theirs = model.state_dict()
    state = {}
    for i, depth in enumerate(DEPTHS):
        stage, n = f'segformer.stages.{i}', i + 1
        for leaf in ('weight', 'bias'):
            embed = f'{stage}.patch_embeddings'
            state[f'backbone.patch_embed{n}.proj.{leaf}'] = theirs[f'{embed}.proj.{leaf}']
            state[f'backbone.patch_embed{n}.norm.{leaf}'] = theirs[f'{embed}.layer_norm.{leaf}']
            state[f'backbone.norm{n}.{leaf}'] = theirs[f'{stage}.layer_norm.{leaf}']
            for j in range(depth):
                ours, block = f'backbone.block{n}.{j}', f'{stage}.blocks.{j}'
                attention, mlp = f'{block}.attention', f'{block}.mlp'
                state[f'{ours}.norm1.{leaf}'] = theirs[f'{block}.layernorm_before.{leaf}']
                state[f'{ours}.norm2.{leaf}'] = theirs[f'{block}.layernorm_after.{leaf}']
                state[f'{ours}.attn.q.{leaf}'] = theirs[f'{attention}.q_proj.{leaf}']
                state[f'{ours}.attn.kv.{leaf}'] = torch.cat(
                    [theirs[f'{attention}.k_proj.{leaf}'], theirs[f'{attention}.v_proj.{leaf}']]
                )
                state[f'{ours}.attn.proj.{leaf}'] = theirs[f'{attention}.o_proj.{leaf}']
                if i < 3:
                    reduction = f'{attention}.sequence_reduction'
                    sr = theirs[f'{reduction}.sequence_reduction.{leaf}']
                    state[f'{ours}.attn.sr.{leaf}'] = sr
                    state[f'{ours}.attn.norm.{leaf}'] = theirs[f'{reduction}.layer_norm.{leaf}']
                state[f'{ours}.mlp.fc1.{leaf}'] = theirs[f'{mlp}.fc1.{leaf}']
                state[f'{ours}.mlp.dwconv.dwconv.{leaf}'] = theirs[f'{mlp}.dwconv.dwconv.{leaf}']
                state[f'{ours}.mlp.fc2.{leaf}'] = theirs[f'{mlp}.fc2.{leaf}']
            linear = theirs[f'decode_head.linear_projections.{i}.proj.{leaf}']
            state[f'decode_head.linear_c{n}.proj.{leaf}'] = linear
    state['decode_head.linear_fuse.conv.weight'] = theirs['decode_head.linear_fuse.weight']
    for leaf in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'):
        state[f'decode_head.linear_fuse.bn.{leaf}'] = theirs[f'decode_head.batch_norm.{leaf}']
    for leaf in ('weight', 'bias'):
        state[f'decode_head.linear_pred.{leaf}'] = theirs[f'decode_head.classifier.{leaf}']
    # every head of theirs inherits it, this one never calls it
    state['decode_head.conv_seg.weight'] = torch.ones(CLASSES, 16, 1, 1)
    state['decode_head.conv_seg.bias'] = torch.ones(CLASSES)
    return state, model
