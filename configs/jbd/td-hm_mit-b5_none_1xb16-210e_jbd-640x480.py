_base_ = [
    '../_base_/mit.py',
    '../_base_/models/td-hm.py',
    '../_base_/datasets/jbd_640x480.py',
    '../_base_/pose_runtime.py',
    '../_base_/schedules/schedule_210e.py',
]

model = dict(
    backbone=_base_.mit_b5,
    head=dict(in_channels=[64, 128, 320, 512], out_channels=20, decoder=_base_.codec),
)
