_base_ = './segformer_mit-b0_none_1xb4-2k_synthetic-cityscapes-1024x1024.py'

model = dict(
    backbone=dict(arch='b2'),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
)
