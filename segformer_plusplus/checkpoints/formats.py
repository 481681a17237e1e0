"""Lists the names that other libraries give to the weights of SegFormer.

A rule pairs one of our keys with the keys of a library. A template stands for many keys: ``{i}`` is
the stage or level counted from 0, ``{n}`` the same counted from 1, ``{r}`` the level counted from
the deepest one, ``{j}`` the block, ``{leaf}`` the parameter.

Other libraries keep query, key and value apart (or query and key with value), mmseg packs them.
Their Mix-FFN holds matrices where mmseg's holds 1x1 convolutions, and their heads concatenate the
levels from the deepest to the first. Only names and shapes stand here, no code of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..errors import CheckpointError

_NUMBER = '0|[1-9][0-9]*'  # one way to write each, so that no two keys mean the same
_LEAF = 'weight|bias|running_mean|running_var|num_batches_tracked'
_PARTS = {1: (1,), 2: (1, 2), 3: (1, 1, 1)}  # query, key and value are equally large
_BLOCK = 'backbone.layers.{i}.1.{j}'


@dataclass(frozen=True)
class Rule:
    """Pairs one of our keys with the keys of another library that hold the same numbers.

    Args:
        ours: template of our key.
        theirs: templates of their keys; our tensor is the concatenation of theirs.
        matrix: their weight is a matrix (C', C), ours a 1x1 convolution (C', C, 1, 1).
        reverse_levels: their input channels start with the deepest level, ours with the first.
    """

    ours: str
    theirs: tuple[str, ...]
    matrix: bool = False
    reverse_levels: bool = False

    def join(self, key: str, tensors: list[Tensor]) -> Tensor:
        """Makes the tensor of our ``key`` from theirs; wrong shapes stay wrong or raise."""
        tensor = tensors[0]
        if len(tensors) > 1:
            shapes, parts = [tuple(each.shape) for each in tensors], _PARTS[len(tensors)]
            unit = shapes[0][0] if shapes[0] else 0
            if shapes != [(unit * part, *shapes[0][1:]) for part in parts]:
                raise CheckpointError(
                    f'{" and ".join(self.theirs)} do not go together: their shapes are {shapes}, '
                    f'expected the same width and heights of {":".join(map(str, parts))} '
                    f'(for our {key})'
                )
            tensor = torch.cat(tensors)
        if self.matrix and key.endswith('.weight'):
            tensor = tensor.reshape(*tensor.shape, 1, 1)
        return _reverse_levels(tensor) if self.reverse_levels else tensor

    def split(self, key: str, tensor: Tensor) -> list[Tensor]:
        """Makes their tensors from that of our ``key``, whose shape has been checked."""
        if self.reverse_levels:
            tensor = _reverse_levels(tensor)
        if self.matrix and key.endswith('.weight'):
            tensor = tensor.flatten(1)
        if len(self.theirs) == 1:
            return [tensor]
        heights = [len(tensor) // 3 * part for part in _PARTS[len(self.theirs)]]
        # files of tensors refuse two that share their memory
        return [part.clone() for part in tensor.split(heights)]


@dataclass(frozen=True)
class Format:
    """Holds the names of one library.

    Args:
        name: of the library, for people and for the command line.
        title: of the format, in messages.
        prefixes: what may stand before the keys of the backbone; the last one in a segmentor.
        anchor: a key of every backbone, without the prefix.
        rules: for all keys of a segmentor.
        left_out: prefixes of keys that SegFormer's features or logits do not need.
    """

    name: str
    title: str
    prefixes: tuple[str, ...]
    anchor: str
    rules: tuple[Rule, ...]
    left_out: tuple[str, ...] = ()

    def match(self, key: str, ours: bool = False) -> tuple[Rule, int, dict[str, str]] | None:
        """Returns the rule for a key of theirs or of ours, which part it is, and its fields."""
        for rule in self.rules:
            for part, template in enumerate((rule.ours,) if ours else rule.theirs):
                found = _pattern(template).fullmatch(key)
                if found is not None:
                    fields = found.groupdict()
                    if 'n' in fields:
                        fields['i'] = str(int(fields['n']) - 1)
                    return rule, part, fields
        return None


def fill(template: str, fields: Mapping[str, str]) -> str:
    """Returns the key that a template stands for with these fields."""
    values = dict(fields)
    if 'i' in values:
        values['n'] = str(int(values['i']) + 1)
    return template.format(**values)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = re.split(r'\{(\w+)\}', template)  # text, field, text, field, ..., text
    for odd, piece in enumerate(pieces):
        allowed = _LEAF if piece == 'leaf' else _NUMBER
        pieces[odd] = f'(?P<{piece}>{allowed})' if odd % 2 else re.escape(piece)
    return re.compile(''.join(pieces))


def _reverse_levels(weight: Tensor) -> Tensor:
    """Reverses the order of the L groups of input channels of (C, L * C, 1, 1)."""
    if weight.dim() != 4 or not weight.shape[0]:
        return weight  # refused with all other wrong shapes
    return torch.cat(weight.split(weight.shape[0], dim=1)[::-1], dim=1)


# Names inside of a block: ours, NVlabs and SMP, files of Transformers, its modules since 5.9
_IN_BLOCK = (
    ('norm1', 'norm1', 'layer_norm_1', 'layernorm_before'),
    ('attn.sr', 'attn.sr', 'attention.self.sr', 'attention.sequence_reduction.sequence_reduction'),
    ('attn.norm', 'attn.norm', 'attention.self.layer_norm',
     'attention.sequence_reduction.layer_norm'),
    ('attn.attn.out_proj', 'attn.proj', 'attention.output.dense', 'attention.o_proj'),
    ('norm2', 'norm2', 'layer_norm_2', 'layernorm_after'),
    ('ffn.layers.0', 'mlp.fc1', 'mlp.dense1', 'mlp.fc1'),
    ('ffn.layers.1', 'mlp.dwconv.dwconv', 'mlp.dwconv.dwconv', 'mlp.dwconv.dwconv'),
    ('ffn.layers.4', 'mlp.fc2', 'mlp.dense2', 'mlp.fc2'),
)  # fmt: skip


def _rules(
    column: int, stage: tuple[str, ...], qkv: tuple[str, ...], head: tuple[str, ...]
) -> tuple[Rule, ...]:
    """Makes the rules of a library from its names.

    Args:
        column: of the table above.
        stage: prefix; block, patch embedding, its norm, norm after the blocks.
        qkv: query, key and value inside of a block.
        head: prefix; projection of a level, fusion, its norm, classifier.
    """
    block, embed, embed_norm, norm = (stage[0] + name for name in stage[1:])
    level, fusion, fusion_norm, classifier = (head[0] + name for name in head[1:])
    pairs = {
        'backbone.layers.{i}.0.projection': embed,
        'backbone.layers.{i}.0.norm': embed_norm,
        **{f'{_BLOCK}.{row[0]}': f'{block}.{row[column]}' for row in _IN_BLOCK},
        'backbone.layers.{i}.2': norm,
        'decode_head.convs.{i}.conv': level,
        'decode_head.fusion_conv.bn': fusion_norm,
        'decode_head.conv_seg': classifier,
    }
    matrices = ('ffn.layers.0', 'ffn.layers.4', 'convs.{i}.conv')
    packed, fused = f'{_BLOCK}.attn.attn.in_proj_', 'decode_head.fusion_conv.conv.weight'
    leaf = '{leaf}'
    return (
        *(Rule(f'{k}.{leaf}', (f'{v}.{leaf}',), k.endswith(matrices)) for k, v in pairs.items()),
        Rule(packed + leaf, tuple(f'{block}.{name}.{leaf}' for name in qkv)),
        Rule(fused, (f'{fusion}.weight',), reverse_levels=True),
    )


_NVLABS_STAGE = ('block{n}.{j}', 'patch_embed{n}.proj', 'patch_embed{n}.norm', 'norm{n}')

NVLABS = Format(
    name='nvlabs',
    title="NVlabs' SegFormer",
    prefixes=('', 'backbone.'),
    anchor='patch_embed1.proj.weight',
    rules=_rules(
        column=1,
        stage=('backbone.', *_NVLABS_STAGE),
        qkv=('attn.q', 'attn.kv'),
        head=('decode_head.', 'linear_c{n}.proj', 'linear_fuse.conv', 'linear_fuse.bn',
              'linear_pred'),
    ),
    # the ImageNet classifier, and a convolution that every head inherits and this one never calls
    left_out=('head.', 'backbone.head.', 'decode_head.conv_seg.'),
)  # fmt: skip

SMP = Format(
    name='smp',
    title='segmentation_models.pytorch',
    prefixes=('encoder.',),  # a backbone alone has the names of NVlabs
    anchor='patch_embed1.proj.weight',
    rules=_rules(
        column=1,
        stage=('encoder.', *_NVLABS_STAGE),
        qkv=('attn.q', 'attn.kv'),
        head=('', 'decoder.mlp_stage.{r}.linear', 'decoder.fuse_stage.0', 'decoder.fuse_stage.1',
              'segmentation_head.0'),
    ),
    left_out=('classification_head.', 'encoder.head.'),
)  # fmt: skip

TRANSFORMERS = Format(
    name='transformers',
    title='Transformers (files)',
    prefixes=('', 'segformer.'),
    anchor='encoder.patch_embeddings.0.proj.weight',
    rules=_rules(
        column=2,
        stage=('segformer.encoder.', 'block.{i}.{j}', 'patch_embeddings.{i}.proj',
               'patch_embeddings.{i}.layer_norm', 'layer_norm.{i}'),
        qkv=('attention.self.query', 'attention.self.key', 'attention.self.value'),
        head=('decode_head.', 'linear_c.{i}.proj', 'linear_fuse', 'batch_norm', 'classifier'),
    ),
    left_out=('classifier.',),
)  # fmt: skip
"""The names in every file of Transformers' save_pretrained, and of its modules before 5.9."""

TRANSFORMERS_5 = Format(
    name='transformers',
    title='Transformers (modules since 5.9)',
    prefixes=('', 'segformer.'),
    anchor='stages.0.patch_embeddings.proj.weight',
    rules=_rules(
        column=3,
        stage=('segformer.stages.{i}.', 'blocks.{j}', 'patch_embeddings.proj',
               'patch_embeddings.layer_norm', 'layer_norm'),
        qkv=('attention.q_proj', 'attention.k_proj', 'attention.v_proj'),
        head=('decode_head.', 'linear_projections.{i}.proj', 'linear_fuse', 'batch_norm',
              'classifier'),
    ),
    left_out=('classifier.',),
)  # fmt: skip
"""The names that its modules have in memory since 5.9: ``model.state_dict()``."""

MMSEG = Format(
    name='mmseg',
    title='mmseg',
    prefixes=('', 'backbone.'),
    anchor='layers.0.0.projection.weight',
    rules=tuple(Rule(rule.ours, (rule.ours,)) for rule in NVLABS.rules),
)
"""Our own names."""

FORMATS = (TRANSFORMERS, TRANSFORMERS_5, NVLABS, SMP, MMSEG)
