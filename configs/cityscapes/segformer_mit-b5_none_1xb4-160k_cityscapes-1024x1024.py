_base_ = [
    '../_base_/mit.py',
    '../_base_/models/segformer.py',
    '../_base_/datasets/cityscapes_1024x1024.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_160k.py',
]

model = dict(
    backbone=_base_.mit_b5,
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    data_preprocessor=dict(size=(1024, 1024)),
    test_cfg=dict(mode='slide', crop_size=(1024, 1024), stride=(768, 768)),
)
