"""Trained models on images, folders and videos: labels or keypoints, pictures and files of them."""

from ..compat import lazily

__getattr__ = lazily(
    __name__,
    {
        'IMAGE_SUFFIXES': 'sources',
        'VIDEO_SUFFIXES': 'sources',
        'MergeMap': 'merge_maps',
        'MergeMaps': 'merge_maps',
        'Picture': 'sources',
        'PlanRecord': 'merge_maps',
        'PoseEstimator': 'pose',
        'Prediction': 'predictor',
        'Segmenter': 'segmenter',
        'draw': 'drawing',
        'find_pictures': 'sources',
        'merge_map': 'merge_maps',
        'record_plans': 'merge_maps',
    },
    needs=('mmengine', 'mmcv'),
)

__all__ = [
    'IMAGE_SUFFIXES',
    'VIDEO_SUFFIXES',
    'MergeMap',
    'MergeMaps',
    'Picture',
    'PlanRecord',
    'PoseEstimator',
    'Prediction',
    'Segmenter',
    'draw',
    'find_pictures',
    'merge_map',
    'record_plans',
]
