# With a backbone of ../mit.py; the head's channels are those of B0. Its number of keypoints and its
# codec come with the dataset.
model = dict(
    type='TopdownPoseEstimator',
    data_preprocessor=dict(
        type='PoseDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    head=dict(
        type='SegformerHeatmapHead',
        in_channels=[32, 64, 160, 256],
        channels=256,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        loss=dict(type='KeypointMSELoss', use_target_weight=True),
    ),
    test_cfg=dict(flip_test=True, flip_mode='heatmap', shift_heatmap=True),
)
