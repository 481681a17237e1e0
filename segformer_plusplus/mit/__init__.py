"""Holds SegFormer's encoder: attention and Mix-FFN, which need torch alone, and what needs mmengine
and mmcv: OpenMMLab's backbone and the fusion of its heads."""

from ..compat import lazily
from .archs import ARCHS as ARCHS

__getattr__, __all__ = lazily(__name__, __file__, ('mmengine', 'mmcv'))
