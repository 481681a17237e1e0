"""Runs trained models on images, folders and videos, and shows what they merge."""

from ..compat import lazily

_MODULES = {
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
    'open_model': 'opening',
    'record_plans': 'merge_maps',
}

__getattr__ = lazily(__name__, _MODULES, needs=('mmengine', 'mmcv'))
__all__ = list(_MODULES)
