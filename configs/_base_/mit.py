# The backbones that segmentors and pose estimators share. Their weights were trained on ImageNet by
# SegFormer's authors and converted by OpenMMLab.

mit_b0 = dict(
    type='MixVisionTransformerPlusPlus',
    arch='b0',
    token_merging='none',
    in_channels=3,
    out_indices=(0, 1, 2, 3),
    drop_rate=0.0,
    attn_drop_rate=0.0,
    drop_path_rate=0.1,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
        'mit_b0_20220624-7e0fe6dd.pth',
    ),
)
mit_b2 = dict(
    mit_b0,
    arch='b2',
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
        'mit_b2_20220624-66e8bf70.pth',
    ),
)
mit_b5 = dict(
    mit_b0,
    arch='b5',
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
        'mit_b5_20220624-658746d9.pth',
    ),
)
