# Trained on ImageNet by SegFormer's authors, converted by OpenMMLab.
mit_checkpoints = dict(
    b0='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
    'mit_b0_20220624-7e0fe6dd.pth',
    b2='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
    'mit_b2_20220624-66e8bf70.pth',
    b5='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
    'mit_b5_20220624-658746d9.pth',
)

# What a segmentor and a pose estimator share.
model = dict(
    backbone=dict(
        type='MixVisionTransformerPlusPlus',
        arch='b0',
        token_merging='none',
        in_channels=3,
        out_indices=(0, 1, 2, 3),
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=mit_checkpoints['b0']),
    ),
)
