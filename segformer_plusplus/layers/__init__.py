"""The layers of SegFormer on channels-last tokens, with the parameters' names of mmseg."""

from .attention import EfficientAttention
from .block import MixTransformerBlock
from .fusion import fuse_pyramid
from .mix_ffn import MixFFN
from .patch_embed import OverlapPatchEmbed

__all__ = [
    'EfficientAttention',
    'MixFFN',
    'MixTransformerBlock',
    'OverlapPatchEmbed',
    'fuse_pyramid',
]
