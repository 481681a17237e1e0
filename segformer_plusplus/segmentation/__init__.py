"""Holds what needs mmseg: the segmentor, its heads, the label loader and the CamVid dataset."""

from ..compat import lazily

__getattr__ = lazily(
    __name__,
    {
        'CamVidDataset': 'data',
        'CheckedLoadAnnotations': 'transforms',
        'EncoderDecoderPlusPlus': 'segmentor',
        'SegformerHeadPlusPlus': 'heads',
        'SegformerLinearHead': 'heads',
        'label_map': 'segmentor',
    },
    needs=('mmseg', 'mmseg.models', 'mmseg.datasets.transforms'),
)

__all__ = [
    'CamVidDataset',
    'CheckedLoadAnnotations',
    'EncoderDecoderPlusPlus',
    'SegformerHeadPlusPlus',
    'SegformerLinearHead',
    'label_map',
]
