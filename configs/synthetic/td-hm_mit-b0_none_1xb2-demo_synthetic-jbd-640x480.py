# The JBD config of the same name for jumpers that tools/dataset_generators draws, to learn
# something in minutes: another data root, wider targets (sigma), no augmentation but flips, a short
# schedule
# whose rate falls steadily, from scratch, without drop path, and with a narrower head, which would
# otherwise take half of a step on a CPU.
_base_ = [
    '../_base_/mit.py',
    '../_base_/models/td-hm.py',
    '../_base_/datasets/jbd_640x480.py',
    '../_base_/pose_runtime.py',
    '../_base_/schedules/schedule_210e.py',
]

data_root = 'data/synthetic_jbd'
codec = dict(type='MSRAHeatmap', input_size=(480, 640), heatmap_size=(120, 160), sigma=6)
max_iters = 1000

model = dict(
    backbone=dict(_base_.mit_b0, init_cfg=None, drop_path_rate=0.0),
    head=dict(out_channels=20, channels=64, decoder=codec),
)

train_pipeline = [
    dict(type='CheckedLoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='RandomFlip', direction='horizontal'),
    dict(type='TopdownAffine', input_size=codec['input_size']),
    dict(type='GenerateTarget', encoder=codec),
    dict(type='PackPoseInputs'),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=2, num_workers=2, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=20),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=20, end=max_iters),
]
# no validation: what comes out is tested under the paper's strategies
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters + 1
)
randomness = dict(seed=0)
custom_hooks = [dict(type='ProgressBarHook')]
default_hooks = dict(
    logger=dict(interval=100, log_metric_by_epoch=False),
    checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval=max_iters),
)
log_processor = dict(by_epoch=False)
