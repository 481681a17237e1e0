_base_ = [
    '../_base_/mit.py',
    '../_base_/models/td-hm.py',
    '../_base_/datasets/lsp_640x480.py',
    '../_base_/pose_runtime.py',
    '../_base_/schedules/schedule_3k.py',
]

model = dict(
    backbone=dict(_base_.mit_b0, init_cfg=None, drop_path_rate=0.0),
    # narrower than elsewhere, where it takes half of a step on a CPU
    head=dict(out_channels=14, channels=64, decoder=_base_.codec),
)
default_hooks = dict(visualization=dict(type='PoseVisualizationHook', enable=False))
log_processor = dict(by_epoch=False)
