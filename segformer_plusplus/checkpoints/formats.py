"""How other libraries name the weights of SegFormer: one table each, and what reads them.

Rules pair our keys with theirs and say what has to be done to the tensors. A template stands for
many keys: ``{i}`` is the stage or level from 0, ``{n}`` the same from 1, ``{r}`` the level counted
from the deepest one, ``{j}`` the block, ``{leaf}`` the parameter.

The attention of Transformers, NVlabs' SegFormer and segmentation_models.pytorch keeps q, k and v
apart (or q and kv), mmseg's packs them; their Mix-FFN has matrices where mmseg's has 1x1
convolutions; and their heads concatenate the levels from the deepest to the first. Only names and
shapes stand here: no code of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from ..errors import CheckpointError

__all__ = ['NVLABS', 'SMP', 'TRANSFORMERS', 'TRANSFORMERS_5', 'Format', 'Rule']

_NUMBER = '0|[1-9][0-9]*'  # one way to write each, so that no two keys mean the same
_FIELDS = {
    'i': _NUMBER,
    'n': _NUMBER,
    'r': _NUMBER,
    'j': _NUMBER,
    'leaf': 'weight|bias|running_mean|running_var|num_batches_tracked',
}
_FIELD = re.compile(r'\{(\w+)\}')


@dataclass(frozen=True)
class Rule:
    """One of our keys and the key, or keys, of another library that hold the same numbers.

    Args:
        ours: template of our key.
        theirs: templates of theirs; where there are several, ours is their concatenation.
        parts: how large each of them is, in shares of the whole.
        matrix: their weight is a matrix (C', C), ours a 1x1 convolution (C', C, 1, 1).
        reverse_levels: their input channels start with the deepest level, ours with the first.
    """

    ours: str
    theirs: tuple[str, ...]
    parts: tuple[int, ...] = (1,)
    matrix: bool = False
    reverse_levels: bool = False

    def join(self, key: str, tensors: list[Tensor]) -> Tensor:
        """Our tensor from theirs; ``key`` is ours, for the error."""
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if len(tensors) > 1:
            heights = [shape[0] if shape else 0 for shape in shapes]
            unit = heights[0] // self.parts[0]
            rests = {shape[1:] for shape in shapes}
            if len(rests) > 1 or heights != [unit * part for part in self.parts]:
                names = ' and '.join(self.theirs)
                raise CheckpointError(
                    f'{names} do not go together: their shapes are {shapes}, expected the same '
                    f'width and heights of {":".join(map(str, self.parts))} (for our {key})'
                )
        tensor = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        if self.matrix and key.endswith('.weight'):
            if tensor.dim() != 2:
                raise CheckpointError(
                    f'the weight for our {key} has the shape {tuple(tensor.shape)}, expected a '
                    'matrix'
                )
            tensor = tensor[:, :, None, None]
        return _reverse_levels(key, tensor) if self.reverse_levels else tensor

    def split(self, key: str, tensor: Tensor) -> list[Tensor]:
        """Their tensors from ours."""
        if self.reverse_levels:
            tensor = _reverse_levels(key, tensor)
        if self.matrix and key.endswith('.weight'):
            if tensor.dim() != 4 or tuple(tensor.shape[2:]) != (1, 1):
                raise CheckpointError(
                    f'{key} has the shape {tuple(tensor.shape)}, expected a 1x1 convolution'
                )
            tensor = tensor.flatten(1)
        if len(self.parts) == 1:
            return [tensor]
        total = sum(self.parts)
        if not tensor.dim() or tensor.shape[0] % total:
            raise CheckpointError(
                f'{key} has the shape {tuple(tensor.shape)}, its height must be a multiple of '
                f'{total}'
            )
        unit = tensor.shape[0] // total
        # files of tensors refuse two that share their memory
        return [part.clone() for part in tensor.split([unit * part for part in self.parts])]


@dataclass(frozen=True)
class Format:
    """The names of one library.

    Args:
        name: for people and for the command line.
        title: in messages.
        bare: rules for the backbone's keys below its prefix.
        prefix: what their backbone is called in a whole model.
        head: rules for the keys of a segmentor's head.
        left_out: prefixes of keys that SegFormer's features or logits do not need.
        anchor: a key of the backbone, below its prefix, that no other format has.
    """

    name: str
    title: str
    bare: tuple[Rule, ...]
    prefix: str
    head: tuple[Rule, ...]
    left_out: tuple[str, ...]
    anchor: str


def parse(template: str, key: str, levels: int) -> dict[str, str] | None:
    """The fields of a key that a template stands for, None if it does not."""
    match = _pattern(template).fullmatch(key)
    if match is None:
        return None
    fields = match.groupdict()
    if 'n' in fields:
        fields['i'] = str(int(fields['n']) - 1)
    if 'r' in fields:
        fields['i'] = str(levels - 1 - int(fields['r']))
    return fields


def fill(template: str, fields: Mapping[str, str], levels: int) -> str:
    """The key that a template stands for with these fields."""
    values = dict(fields)
    if 'i' in values:
        values['n'] = str(int(values['i']) + 1)
        values['r'] = str(levels - 1 - int(values['i']))
    return template.format(**values)


def prefixed(each: Format, theirs: str | None = None, ours: str = 'backbone.') -> tuple[Rule, ...]:
    """The rules of the backbone inside of a whole model."""
    prefix = each.prefix if theirs is None else theirs
    return tuple(
        replace(rule, ours=ours + rule.ours, theirs=tuple(prefix + name for name in rule.theirs))
        for rule in each.bare
    )


def match_theirs(
    key: str, rules: Iterable[Rule], levels: int
) -> tuple[Rule, int, dict[str, str]] | None:
    """The rule that one of their keys falls under, which part of ours it is, and its fields."""
    for rule in rules:
        for part, template in enumerate(rule.theirs):
            fields = parse(template, key, levels)
            if fields is not None:
                return rule, part, fields
    return None


def match_ours(key: str, rules: Iterable[Rule]) -> tuple[Rule, dict[str, str]] | None:
    """The rule that one of our keys falls under, and its fields."""
    for rule in rules:
        fields = parse(rule.ours, key, 0)
        if fields is not None:
            return rule, fields
    return None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = _FIELD.split(template)  # text, field, text, field, ..., text
    pattern = ''.join(
        f'(?P<{piece}>{_FIELDS[piece]})' if odd % 2 else re.escape(piece)
        for odd, piece in enumerate(pieces)
    )
    return re.compile(pattern)


def _reverse_levels(key: str, weight: Tensor) -> Tensor:
    """(C, L * C, 1, 1) with its L groups of input channels in the other order."""
    if weight.dim() != 4 or not weight.shape[0] or weight.shape[1] % weight.shape[0]:
        raise CheckpointError(
            f'{key} has the shape {tuple(weight.shape)}, expected (C, levels * C, 1, 1)'
        )
    levels = weight.shape[1] // weight.shape[0]
    return torch.cat(weight.chunk(levels, dim=1)[::-1], dim=1)


_STAGE, _BLOCK = 'layers.{i}', 'layers.{i}.1.{j}'
_HEAD = 'decode_head'


def _backbone(
    embed: str,
    embed_norm: str,
    block: str,
    names: dict[str, str],
    qkv: tuple[str, ...],
    parts: tuple[int, ...],
    norm: str,
) -> tuple[Rule, ...]:
    """The rules of a backbone; ``names`` are those inside of a block."""
    leaf = '.{leaf}'
    modules = {
        'norm1': f'{_BLOCK}.norm1',
        'sr': f'{_BLOCK}.attn.sr',
        'sr_norm': f'{_BLOCK}.attn.norm',
        'out': f'{_BLOCK}.attn.attn.out_proj',
        'norm2': f'{_BLOCK}.norm2',
        'fc1': f'{_BLOCK}.ffn.layers.0',
        'dwconv': f'{_BLOCK}.ffn.layers.1',
        'fc2': f'{_BLOCK}.ffn.layers.4',
    }
    return (
        Rule(f'{_STAGE}.0.projection' + leaf, (embed + leaf,)),
        Rule(f'{_STAGE}.0.norm' + leaf, (embed_norm + leaf,)),
        Rule(
            f'{_BLOCK}.attn.attn.in_proj_' + '{leaf}',
            tuple(f'{block}.{name}{leaf}' for name in qkv),
            parts,
        ),
        *(
            Rule(module + leaf, (f'{block}.{names[name]}{leaf}',), matrix=name in ('fc1', 'fc2'))
            for name, module in modules.items()
        ),
        Rule(f'{_STAGE}.2' + leaf, (norm + leaf,)),
    )


def _head(linear: str, fuse: str, fuse_norm: str, classifier: str) -> tuple[Rule, ...]:
    leaf = '.{leaf}'
    return (
        Rule(f'{_HEAD}.convs.{{i}}.conv' + leaf, (linear + leaf,), matrix=True),
        Rule(f'{_HEAD}.fusion_conv.conv.weight', (f'{fuse}.weight',), reverse_levels=True),
        Rule(f'{_HEAD}.fusion_conv.bn' + leaf, (fuse_norm + leaf,)),
        Rule(f'{_HEAD}.conv_seg' + leaf, (classifier + leaf,)),
    )


_NVLABS_BACKBONE = _backbone(
    embed='patch_embed{n}.proj',
    embed_norm='patch_embed{n}.norm',
    block='block{n}.{j}',
    names=dict(
        norm1='norm1',
        sr='attn.sr',
        sr_norm='attn.norm',
        out='attn.proj',
        norm2='norm2',
        fc1='mlp.fc1',
        dwconv='mlp.dwconv.dwconv',
        fc2='mlp.fc2',
    ),
    qkv=('attn.q', 'attn.kv'),
    parts=(1, 2),
    norm='norm{n}',
)

NVLABS = Format(
    name='nvlabs',
    title="NVlabs' SegFormer",
    bare=_NVLABS_BACKBONE,
    prefix='backbone.',
    head=_head(
        linear='decode_head.linear_c{n}.proj',
        fuse='decode_head.linear_fuse.conv',
        fuse_norm='decode_head.linear_fuse.bn',
        classifier='decode_head.linear_pred',
    ),
    # the ImageNet classifier, and a convolution that every head inherits and this one never calls
    left_out=('head.', 'backbone.head.', 'decode_head.conv_seg.'),
    anchor='patch_embed1.proj.weight',
)

SMP = Format(
    name='smp',
    title='segmentation_models.pytorch',
    bare=_NVLABS_BACKBONE,
    prefix='encoder.',
    head=_head(
        linear='decoder.mlp_stage.{r}.linear',
        fuse='decoder.fuse_stage.0',
        fuse_norm='decoder.fuse_stage.1',
        classifier='segmentation_head.0',
    ),
    left_out=('classification_head.', 'encoder.head.'),
    anchor='patch_embed1.proj.weight',
)

TRANSFORMERS = Format(
    name='transformers',
    title='Transformers (files)',
    bare=_backbone(
        embed='encoder.patch_embeddings.{i}.proj',
        embed_norm='encoder.patch_embeddings.{i}.layer_norm',
        block='encoder.block.{i}.{j}',
        names=dict(
            norm1='layer_norm_1',
            sr='attention.self.sr',
            sr_norm='attention.self.layer_norm',
            out='attention.output.dense',
            norm2='layer_norm_2',
            fc1='mlp.dense1',
            dwconv='mlp.dwconv.dwconv',
            fc2='mlp.dense2',
        ),
        qkv=('attention.self.query', 'attention.self.key', 'attention.self.value'),
        parts=(1, 1, 1),
        norm='encoder.layer_norm.{i}',
    ),
    prefix='segformer.',
    head=_head(
        linear='decode_head.linear_c.{i}.proj',
        fuse='decode_head.linear_fuse',
        fuse_norm='decode_head.batch_norm',
        classifier='decode_head.classifier',
    ),
    left_out=('classifier.',),
    anchor='encoder.patch_embeddings.0.proj.weight',
)
"""The names in every file of Transformers' save_pretrained, and of its modules up to version 4."""

TRANSFORMERS_5 = Format(
    name='transformers',
    title='Transformers (modules of version 5)',
    bare=_backbone(
        embed='stages.{i}.patch_embeddings.proj',
        embed_norm='stages.{i}.patch_embeddings.layer_norm',
        block='stages.{i}.blocks.{j}',
        names=dict(
            norm1='layernorm_before',
            sr='attention.sequence_reduction.sequence_reduction',
            sr_norm='attention.sequence_reduction.layer_norm',
            out='attention.o_proj',
            norm2='layernorm_after',
            fc1='mlp.fc1',
            dwconv='mlp.dwconv.dwconv',
            fc2='mlp.fc2',
        ),
        qkv=('attention.q_proj', 'attention.k_proj', 'attention.v_proj'),
        parts=(1, 1, 1),
        norm='stages.{i}.layer_norm',
    ),
    prefix='segformer.',
    head=_head(
        linear='decode_head.linear_projections.{i}.proj',
        fuse='decode_head.linear_fuse',
        fuse_norm='decode_head.batch_norm',
        classifier='decode_head.classifier',
    ),
    left_out=('classifier.',),
    anchor='stages.0.patch_embeddings.proj.weight',
)
"""The names that version 5's modules have in memory: ``model.state_dict()``."""
