# The Cityscapes config of the same name with another data root and schedule, from scratch, tested
# on whole images: for a GPU.
_base_ = [
    '../_base_/models/segformer_mit-b2.py',
    '../_base_/datasets/synthetic_cityscapes_1024x1024.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_2k.py',
]

model = dict(
    data_preprocessor=dict(size=(1024, 1024)),
    backbone=dict(init_cfg=None),
    test_cfg=dict(mode='whole'),
)
