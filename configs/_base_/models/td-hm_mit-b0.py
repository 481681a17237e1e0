_base_ = '../mit_checkpoints.py'

# The head's number of keypoints and its codec come with the dataset.
model = dict(
    type='TopdownPoseEstimator',
    data_preprocessor=dict(
        type='PoseDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='MixVisionTransformerPlusPlus',
        arch='b0',
        token_merging='none',
        in_channels=3,
        out_indices=(0, 1, 2, 3),
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=_base_.mit_checkpoints.b0),
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
