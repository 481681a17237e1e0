from .drawing import draw
from .merge_maps import MergeMap, MergeMaps, PlanRecord, merge_map, record_plans
from .opening import open_model
from .pose import PoseEstimator
from .predictor import Prediction
from .segmenter import Segmenter
from .sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Picture, find_pictures

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
    'open_model',
    'record_plans',
]
