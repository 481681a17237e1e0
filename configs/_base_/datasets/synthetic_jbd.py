# Jumpers drawn by tools/dataset_generators/synthetic_jumpers.py, laid out as Jump-Broadcast. Learnt
# from random weights in minutes, hence wider targets (sigma) and no augmentation but flips.
_base_ = './jbd_640x480.py'

data_root = 'data/synthetic_jbd'
codec = dict(type='MSRAHeatmap', input_size=(480, 640), heatmap_size=(120, 160), sigma=6)

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
