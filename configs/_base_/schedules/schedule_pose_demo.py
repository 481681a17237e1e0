# As the paper's schedule, but short: for the synthetic jumpers and without pretrained weights.
_base_ = './schedule_210e.py'

max_epochs = 3
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=20),
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=max_epochs,
        milestones=[170, 200],
        gamma=0.1,
    ),
]

# no validation: what comes out is tested under every strategy
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs + 1)
randomness = dict(seed=0)
custom_hooks = [dict(type='ProgressBarHook')]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=1, save_best=None))
