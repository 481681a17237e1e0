_base_ = [
    '../_base_/mit.py',
    '../_base_/models/segformer.py',
    '../_base_/datasets/ade20k_640x640.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_160k.py',
]

model = dict(
    backbone=_base_.mit_b5,
    data_preprocessor=dict(size=(640, 640)),
    decode_head=dict(in_channels=[64, 128, 320, 512], num_classes=150),
    test_cfg=dict(mode='whole'),
)
