# The Cityscapes config of the same name with another data root, size and schedule, from scratch.
_base_ = [
    '../_base_/models/segformer_mit-b0.py',
    '../_base_/datasets/synthetic_cityscapes.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_demo.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(init_cfg=None),
    test_cfg=dict(mode='whole'),
)
