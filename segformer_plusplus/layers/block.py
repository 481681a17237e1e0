"""One transformer block of SegFormer: attention and Mix-FFN, each with norm and residual."""

from __future__ import annotations

from typing import Any

from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..token_merging import StageMerging
from ..token_merging.base import Grid
from . import cpu
from .attention import EfficientAttention
from .merged_attention import SharedPlans
from .mix_ffn import MixFFN


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
