"""The layers of SegFormer as modules with the parameters' names of mmseg."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import SegformerPlusPlusError
from ..token_merging import StageMerging
from ..token_merging.base import Grid, image_to_tokens
from . import cpu
from .attention import PackedAttention, SharedPlans
from .ffn import SequentialFFN


def check_token_norm(norm: nn.Module, norm_cfg: dict[str, Any]) -> None:
    """Raise for a norm that wants channels in the second dimension."""
    if isinstance(norm, nn.modules.batchnorm._NormBase | nn.GroupNorm):
        raise SegformerPlusPlusError(
            f'norm_cfg={norm_cfg} is a norm of images; the backbone needs one of tokens (B, N, C), '
            "such as dict(type='LN', eps=1e-6)"
        )


class OverlapPatchEmbed(nn.Module):
    """Image to normalised tokens (SegFormer, section 3.1).

    Args:
        in_channels: channels of the image or of the stage before.
        embed_dims: C.
        patch_size: kernel of the convolution; padded by half of it.
        stride: by which the grid shrinks.
        norm_cfg: of the norm after it.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: int,
        stride: int,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        self.projection = nn.Conv2d(
            in_channels, embed_dims, kernel_size=patch_size, stride=stride, padding=patch_size // 2
        )
        self.norm = build_norm_layer(norm_cfg, embed_dims)[1]

    def forward(self, image: Tensor) -> tuple[Tensor, Grid]:
        """(B, in_channels, H, W) -> (B, N, C) and the grid of the N tokens."""
        image = self.projection(image.contiguous(memory_format=torch.channels_last))
        return self.norm(image_to_tokens(image)), (image.shape[2], image.shape[3])


class EfficientAttention(PackedAttention, nn.Module):
    """Multi-head attention whose keys and values lie on a spatially reduced grid.

    Source: SegFormer (Xie et al., NeurIPS 2021), Eq. 2, and Segformer++ (Kienzle et al.,
    MIPR 2024).

    Args:
        embed_dims: C.
        num_heads: heads; divides C.
        sr_ratio: by how much the grid of keys and values is reduced, per side.
        qkv_bias: whether the projections have a bias.
        attn_drop: dropout on the attention weights.
        proj_drop: dropout on the output.
        norm_cfg: of the norm after the spatial reduction.
        merging: strategies for queries and for keys and values.
        in_rows: for inference on a CPU, work on a few queries at a time; equal to rounding.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        sr_ratio: int,
        qkv_bias: bool,
        attn_drop: float,
        proj_drop: float,
        norm_cfg: dict[str, Any],
        merging: StageMerging,
        in_rows: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.merging = merging
        self.in_rows = in_rows
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, attn_drop, bias=qkv_bias)
        self.proj_drop = nn.Dropout(proj_drop)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(embed_dims, embed_dims, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = build_norm_layer(norm_cfg, embed_dims)[1]

    def forward(self, tokens: Tensor, grid: Grid, plans: SharedPlans | None = None) -> Tensor:
        """Attend.

        Args:
            tokens: (B, N, C), normalised.
            grid: (H, W), H * W == N, each side at least ``sr_ratio``.
            plans: see :meth:`MergedAttention.attend`.

        Returns:
            (B, N, C), without the residual.
        """
        return self.proj_drop(self.attend(tokens, grid, plans))


class MixTransformerBlock(nn.Module):
    """``x = x + attention(norm(x)); x = x + ffn(norm(x))``.

    Args:
        embed_dims: C.
        num_heads: heads of the attention.
        feedforward_channels: hidden channels of the Mix-FFN.
        sr_ratio: spatial reduction of keys and values.
        merging: strategies of this block.
        drop_rate: dropout after attention and in the Mix-FFN.
        attn_drop_rate: dropout on the attention weights.
        drop_path_rate: probability that a sample skips a branch in training.
        qkv_bias: whether the projections have a bias.
        act_cfg: activation of the Mix-FFN.
        norm_cfg: of all norms.
        in_rows: for inference on a CPU, work on a few rows at a time; equal to rounding.
        with_cp: recompute the block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        sr_ratio: int,
        merging: StageMerging,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        qkv_bias: bool,
        act_cfg: dict[str, Any],
        norm_cfg: dict[str, Any],
        in_rows: bool,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.in_rows = in_rows
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.attn = EfficientAttention(
            embed_dims=embed_dims,
            num_heads=num_heads,
            sr_ratio=sr_ratio,
            qkv_bias=qkv_bias,
            attn_drop=attn_drop_rate,
            proj_drop=drop_rate,
            norm_cfg=norm_cfg,
            merging=merging,
            in_rows=in_rows,
        )
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.ffn = MixFFN(embed_dims, feedforward_channels, act_cfg, drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor, grid: Grid, plans: SharedPlans | None = None) -> Tensor:
        """(B, N, C) -> (B, N, C); ``plans`` are those of the blocks that share them."""
        if self.with_cp and tokens.requires_grad:
            return checkpoint(self._forward, tokens, grid, plans, use_reentrant=False)
        return self._forward(tokens, grid, plans)

    def _forward(self, tokens: Tensor, grid: Grid, plans: SharedPlans | None) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), grid, plans))
        if self.in_rows and not self.training and cpu.works_in_rows(tokens):
            self.ffn.add_in_rows(tokens, grid, self.norm2)
            return tokens
        return tokens + self.drop_path(self.ffn(self.norm2(tokens), grid))


class MixFFN(SequentialFFN, nn.Module):
    """Expand, 3x3 depthwise convolution, activation, reduce (SegFormer, Eq. 3), on tokens.

    The 1x1 convolutions run as linear layers on channels-last tokens; the modules that hold their
    weights are convolutions so that the state dict is mmseg's.

    Args:
        embed_dims: C.
        feedforward_channels: C' of the hidden layer.
        act_cfg: the activation.
        ffn_drop: dropout after the activation and at the end.
    """

    def __init__(
        self,
        embed_dims: int,
        feedforward_channels: int,
        act_cfg: dict[str, Any],
        ffn_drop: float,
    ) -> None:
        super().__init__()
        hidden = feedforward_channels
        drop = nn.Dropout(ffn_drop)
        self.layers = nn.Sequential(
            nn.Conv2d(embed_dims, hidden, kernel_size=1),
            nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden),
            build_activation_layer(act_cfg),
            drop,
            nn.Conv2d(hidden, embed_dims, kernel_size=1),
            drop,
        )

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """(B, H * W, C) -> (B, H * W, C), without the residual."""
        return self.run(tokens, grid)
