# As the demo's config, but for minutes on a GPU: crops of Cityscapes' size, four images a step, a
# longer schedule at a rate that B2 bears from random weights, with its gradients clipped.
_base_ = [
    '../_base_/mit.py',
    '../_base_/models/segformer.py',
    '../_base_/datasets/cityscapes_1024x1024.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_160k.py',
]

data_root = 'data/synthetic_cityscapes'
image_scale = (2048, 1024)
crop_size = (1024, 1024)
max_iters = 2000

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
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=1.0))),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=100, end=max_iters),
]
# no validation: what comes out is tested under the paper's strategies
train_cfg = dict(max_iters=max_iters, val_interval=max_iters + 1)
randomness = dict(seed=0)
custom_hooks = [dict(type='ProgressBarHook')]
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=max_iters))
