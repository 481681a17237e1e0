"""Whether a norm is for tokens (B, N, C) or for images (B, C, H, W): mixed up, it fails later."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import SegformerPlusPlusError


def check_token_norm(norm: nn.Module, norm_cfg: dict[str, Any]) -> None:
    """Raise for a norm that wants channels in the second dimension."""
    if isinstance(norm, nn.modules.batchnorm._NormBase | nn.GroupNorm):
        raise SegformerPlusPlusError(
            f'norm_cfg={norm_cfg} is a norm of images; the backbone needs one of tokens (B, N, C), '
            "such as dict(type='LN', eps=1e-6)"
        )


def check_image_norm(norm: nn.Module, norm_cfg: dict[str, Any]) -> None:
    """Raise for a norm that wants channels in the last dimension."""
    # subclasses of it may well be for images
    if type(norm) is nn.LayerNorm:
        raise SegformerPlusPlusError(
            f'norm_cfg={norm_cfg} is a norm of tokens; a head needs one of images (B, C, H, W), '
            "such as dict(type='BN')"
        )
