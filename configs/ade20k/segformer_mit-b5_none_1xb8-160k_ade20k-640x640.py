_base_ = [
    '../_base_/models/segformer_mit-b5.py',
    '../_base_/datasets/ade20k_640x640.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_160k.py',
]

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    decode_head=dict(num_classes=150),
    test_cfg=dict(mode='whole'),
)
