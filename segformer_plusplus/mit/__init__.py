"""Holds SegFormer's encoder: attention and Mix-FFN, which need torch alone, and what needs mmengine
and mmcv: OpenMMLab's backbone and the fusion of its heads."""

from ..compat import lazily
from .archs import ARCHS

__getattr__ = lazily(
    __name__,
    {'MixVisionTransformerPlusPlus': 'backbone'},
    needs=('mmengine', 'mmcv'),
)

__all__ = ['ARCHS', 'MixVisionTransformerPlusPlus']
