# The Cityscapes config of the same name for street scenes that tools/dataset_generators draws:
# another data root, smaller sizes, a short schedule, from scratch, tested on whole images.
_base_ = [
    '../_base_/mit.py',
    '../_base_/models/segformer.py',
    '../_base_/datasets/cityscapes_1024x1024.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_160k.py',
]

data_root = 'data/synthetic_cityscapes'
image_scale = (2048, 1024)
crop_size = (512, 512)
max_iters = 600

model = dict(
    backbone=dict(_base_.mit_b0, init_cfg=None),
    data_preprocessor=dict(size=crop_size),
    test_cfg=dict(mode='whole'),
)

train_pipeline = [
    dict(type='CheckedLoadImageFromFile'),
    dict(type='CheckedLoadAnnotations', num_classes=19),
    dict(type='RandomResize', scale=image_scale, ratio_range=(0.75, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(num_workers=2, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(lr=1.5e-3), paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=1.0)))
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=50, end=max_iters),
]
# no validation: what comes out is tested under the paper's strategies
train_cfg = dict(max_iters=max_iters, val_interval=max_iters + 1)
randomness = dict(seed=0)
custom_hooks = [dict(type='ProgressBarHook')]
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=max_iters))
