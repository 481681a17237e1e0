"""The layers of SegFormer on channels-last tokens, with the parameters' names of mmseg."""

from .attention import EfficientAttention
from .block import MixTransformerBlock
from .fusion import fuse_pyramid
from .levels import pair_levels, select_levels
from .mix_ffn import MixFFN
from .norms import check_image_norm, check_token_norm
from .patch_embed import OverlapPatchEmbed

__all__ = [
    'EfficientAttention',
    'MixFFN',
    'MixTransformerBlock',
    'OverlapPatchEmbed',
    'check_image_norm',
    'check_token_norm',
    'fuse_pyramid',
    'pair_levels',
    'select_levels',
]
