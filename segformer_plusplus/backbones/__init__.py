"""Backbones, registered in mmengine's root registry for every OpenMMLab toolbox."""

from .archs import ARCHS
from .mit import MixVisionTransformerPlusPlus

__all__ = ['ARCHS', 'MixVisionTransformerPlusPlus']
