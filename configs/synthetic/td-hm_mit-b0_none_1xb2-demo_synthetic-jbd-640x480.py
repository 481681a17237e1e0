# The JBD config of the same name for jumpers that are drawn, to learn something in minutes: another
# data root, schedule, sigma and augmentation (see the bases), from scratch, without drop path, and
# with a narrower head, which would otherwise take half of a step on a CPU.
_base_ = [
    '../_base_/models/td-hm_mit-b0.py',
    '../_base_/datasets/synthetic_jbd.py',
    '../_base_/pose_runtime.py',
    '../_base_/schedules/schedule_pose_demo.py',
]

model = dict(
    backbone=dict(init_cfg=None, drop_path_rate=0.0),
    head=dict(out_channels=20, channels=64, decoder=_base_.codec),
)
log_processor = dict(by_epoch=False)
