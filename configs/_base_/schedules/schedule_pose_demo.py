# As the paper's schedule, but short, and with a rate that falls steadily: for the synthetic jumpers
# and without pretrained weights.
_base_ = './schedule_210e.py'

max_iters = 1000
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=20),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=20, end=max_iters),
]

# no validation: what comes out is tested under every strategy
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters + 1
)
randomness = dict(seed=0)
custom_hooks = [dict(type='ProgressBarHook')]
default_hooks = dict(
    logger=dict(interval=100, log_metric_by_epoch=False),
    checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval=max_iters),
)
