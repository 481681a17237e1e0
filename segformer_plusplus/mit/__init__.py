"""Holds SegFormer's encoder: attention and Mix-FFN, OpenMMLab's backbone, the fusion of its heads.

The first two need torch alone, what configs build needs mmengine and mmcv.
"""

from ..compat import lazily
from .archs import ARCHS as ARCHS

__getattr__, __all__ = lazily(__name__, __file__, ('mmengine', 'mmcv'))
