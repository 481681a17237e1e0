"""Holds what needs mmseg: the segmentor, its heads and the label loader."""

from ..compat import lazily

__getattr__ = lazily(
    __name__,
    {
        'CheckedLoadAnnotations': 'transforms',
        'EncoderDecoderPlusPlus': 'segmentor',
        'SegformerHeadPlusPlus': 'heads',
        'SegformerLinearHead': 'heads',
        'label_map': 'segmentor',
    },
    needs=('mmseg', 'mmseg.models', 'mmseg.datasets.transforms'),
)

__all__ = [
    'CheckedLoadAnnotations',
    'EncoderDecoderPlusPlus',
    'SegformerHeadPlusPlus',
    'SegformerLinearHead',
    'label_map',
]
