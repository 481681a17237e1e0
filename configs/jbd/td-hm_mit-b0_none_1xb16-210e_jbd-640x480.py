_base_ = [
    '../_base_/mit.py',
    '../_base_/models/td-hm.py',
    '../_base_/datasets/jbd_640x480.py',
    '../_base_/pose_runtime.py',
    '../_base_/schedules/schedule_210e.py',
]

model = dict(
    backbone=_base_.mit_b0,
    head=dict(out_channels=20, decoder=_base_.codec),
)
