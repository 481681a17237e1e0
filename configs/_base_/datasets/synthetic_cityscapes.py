# Street scenes drawn by tools/dataset_generators/synthetic_scenes.py, laid out as Cityscapes.
# Only the data root, the sizes and the number of workers differ from Cityscapes.
_base_ = './cityscapes_1024x1024.py'

data_root = 'data/synthetic_cityscapes'
image_scale = (2048, 1024)
crop_size = (512, 512)

train_pipeline = [
    dict(type='CheckedLoadImageFromFile'),
    dict(type='CheckedLoadAnnotations', num_classes=19),
    dict(type='RandomResize', scale=image_scale, ratio_range=(0.75, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='CheckedLoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    # After the resize: the ground truth keeps its own size.
    dict(type='CheckedLoadAnnotations', num_classes=19),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=2,
    dataset=dict(data_root=data_root, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
