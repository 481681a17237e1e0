# As the paper's schedule, but short: for the synthetic scenes and without pretrained weights.
_base_ = './schedule_160k.py'

max_iters = 600
optim_wrapper = dict(
    optimizer=dict(lr=1.5e-3), paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=1.0)))
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=50, end=max_iters),
]

# no validation: what comes out is tested under every strategy
train_cfg = dict(max_iters=max_iters, val_interval=max_iters + 1)
randomness = dict(seed=0)
custom_hooks = [dict(type='ProgressBarHook')]
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=max_iters))
