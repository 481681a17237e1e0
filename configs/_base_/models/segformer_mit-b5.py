_base_ = './segformer_mit-b0.py'

model = dict(
    backbone=dict(arch='b5', init_cfg=dict(checkpoint=_base_.mit_checkpoints.b5)),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
)
