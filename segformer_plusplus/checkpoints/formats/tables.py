"""The names that Transformers, NVlabs' SegFormer and segmentation_models.pytorch give to weights.

Their attention keeps q, k and v apart (or q and kv), mmseg's packs them; their Mix-FFN has matrices
where mmseg's has 1x1 convolutions; and their heads concatenate the levels from the deepest to the
first. Only names and shapes stand here: no code of theirs.
"""

from __future__ import annotations

from .rules import Format, Rule

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
