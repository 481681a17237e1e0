_base_ = './segformer_mit-b0.py'

checkpoint = (
    'https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
    'mit_b2_20220624-66e8bf70.pth'
)
model = dict(
    backbone=dict(arch='b2', init_cfg=dict(checkpoint=checkpoint)),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
)
