"""The encoder of SegFormer: attention, Mix-FFN and fusion as functions and mixins that need torch
alone, and the backbone of OpenMMLab's models, which needs mmengine and mmcv."""

from ..compat import lazily
from .archs import ARCHS

__getattr__ = lazily(
    __name__,
    {'MixVisionTransformerPlusPlus': 'backbone'},
    needs=('mmengine', 'mmcv'),
)

__all__ = ['ARCHS', 'MixVisionTransformerPlusPlus']
