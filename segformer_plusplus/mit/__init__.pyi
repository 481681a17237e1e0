from .archs import ARCHS
from .backbone import MixVisionTransformerPlusPlus

__all__ = [
    'ARCHS',
    'MixVisionTransformerPlusPlus',
]
