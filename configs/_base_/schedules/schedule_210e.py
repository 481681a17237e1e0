# From the paper: 210 epochs of AdamW with learning rate 5e-4 and weight decay 0.01, warm-up over
# 500 iterations from 0.001 of it, a tenth of it from epoch 170, a hundredth from epoch 200.
#
# In the original repository this scheduler ended at epoch 70, before its first step: its rate
# stayed at 5e-4 throughout. Here it ends with the training, so that the rate does fall. To train
# as the original did, add `--cfg-options param_scheduler.1.end=70`.
max_epochs = 210
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.01),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=max_epochs,
        milestones=[170, 200],
        gamma=0.1,
    ),
]

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook',
        interval=10,
        max_keep_ckpts=3,
        save_best='PCK@0.1',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='PoseVisualizationHook', enable=False),
)
# averages the running statistics of batch norm over the GPUs
custom_hooks = [dict(type='SyncBuffersHook')]
