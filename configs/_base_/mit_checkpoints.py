# Trained on ImageNet by SegFormer's authors, converted by OpenMMLab.
mit_checkpoints = dict(
    b0='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
    'mit_b0_20220624-7e0fe6dd.pth',
    b2='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
    'mit_b2_20220624-66e8bf70.pth',
    b5='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
    'mit_b5_20220624-658746d9.pth',
)
