# The JBD config of the same name with another data root and schedule, from scratch.
_base_ = [
    '../_base_/models/td-hm_mit-b0.py',
    '../_base_/datasets/synthetic_jbd.py',
    '../_base_/pose_runtime.py',
    '../_base_/schedules/schedule_pose_demo.py',
]

model = dict(
    backbone=dict(init_cfg=None),
    head=dict(out_channels=20, decoder=_base_.codec),
)
