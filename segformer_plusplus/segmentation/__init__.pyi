from .data import CamVidDataset
from .heads import SegformerHeadPlusPlus, SegformerLinearHead
from .segmentor import EncoderDecoderPlusPlus, label_map
from .transforms import CheckedLoadAnnotations

__all__ = [
    'CamVidDataset',
    'CheckedLoadAnnotations',
    'EncoderDecoderPlusPlus',
    'SegformerHeadPlusPlus',
    'SegformerLinearHead',
    'label_map',
]
