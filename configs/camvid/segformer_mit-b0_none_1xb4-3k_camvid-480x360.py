_base_ = [
    '../_base_/mit.py',
    '../_base_/models/segformer.py',
    '../_base_/datasets/camvid_480x360.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_3k.py',
]

model = dict(
    backbone=dict(_base_.mit_b0, init_cfg=None),
    decode_head=dict(num_classes=11),
    data_preprocessor=dict(size=_base_.crop_size),
)
