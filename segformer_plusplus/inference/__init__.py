"""Trained models on images, folders and videos: labels or keypoints, pictures and files of them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .predictor import Prediction
from .sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Picture, find_pictures

if TYPE_CHECKING:
    from .pose import PoseEstimator
    from .segmenter import Segmenter

# each needs its toolbox, but not the other's
_PARTS = {'Segmenter': 'segmenter', 'PoseEstimator': 'pose'}


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return getattr(import_module(f'.{_PARTS[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


__all__ = [
    'IMAGE_SUFFIXES',
    'VIDEO_SUFFIXES',
    'Picture',
    'PoseEstimator',
    'Prediction',
    'Segmenter',
    'find_pictures',
]
