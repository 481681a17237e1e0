"""Holds the MixVisionTransformer with token merging, its blocks and patch embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..arguments import (
    CONFIG,
    FILE,
    FLAG,
    INIT_CFG,
    NONE,
    SHARE,
    SHARE_BELOW_ONE,
    blaming,
    checked,
    integer,
    integers,
    one_of,
)
from ..errors import SegformerPlusPlusError
from ..token_merging import (
    BASELINE,
    StageMerging,
    TokenMergingConfig,
    build_token_merging,
    read_tome_cfg,
)
from ..token_merging.base import Grid, image_to_tokens, tokens_to_image
from . import cpu, gpu
from .archs import resolve_arch
from .attention import EfficientAttention, SharedPlans
from .ffn import MixFFN
from .initialisation import initialise
from .plain import is_untouched


@MODELS.register_module(force=True)
class MixVisionTransformerPlusPlus(BaseModule):
    """Is SegFormer's backbone (Xie et al., NeurIPS 2021) with the token merging of Segformer++.

    It takes the place of mmseg's ``MixVisionTransformer``: it has the same arguments, the same
    state dict, and without merging the same numbers.

    Args:
        arch: 'b0' to 'b5'; or None, with ``embed_dims``, ``num_heads`` and ``num_layers`` given
            explicitly (defaults as in mmseg).
        token_merging: a preset, such as 'hq' (see ``PRESETS``), or one dict per stage with a
            strategy for ``q`` and ``kv``, such as
            ``dict(kv=dict(type='BipartiteSoftMatching2d', ratio=0.6, stride=2))``.
        tome_cfg: the same in the spelling of the paper's original repository.
        in_channels: channels of the image.
        embed_dims: width of one head; stage i has ``embed_dims * num_heads[i]`` channels.
        num_stages: stages.
        num_layers: blocks of each stage.
        num_heads: attention heads of each stage.
        patch_sizes: kernels of the patch embeddings.
        strides: strides of the patch embeddings.
        sr_ratios: spatial reduction of keys and values in each stage.
        out_indices: stages whose features are returned.
        mlp_ratio: hidden channels of the Mix-FFN over channels.
        qkv_bias: whether the projections of the attention have a bias.
        drop_rate: dropout after attention and in the Mix-FFN.
        attn_drop_rate: dropout on the attention weights.
        drop_path_rate: of the last block; it rises linearly from 0 at the first one.
        act_cfg: activation of the Mix-FFN.
        norm_cfg: of all norms.
        pretrained: short for ``init_cfg=dict(type='Pretrained', checkpoint=pretrained)``.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=...)`` loads strictly: a missing
            file, or one whose keys or shapes differ, is an error.
        with_cp: gradient checkpointing, which computes again in the backward pass instead of
            keeping: 'conv' what follows the first layer of every Mix-FFN up to the last, 'ffn'
            every Mix-FFN and its norm, True every block.
        frozen_stages: as in mmseg's other backbones: -1 trains all; 0 keeps the first patch
            embedding as it is, i the first i stages, without gradients and dropout.
        in_rows: the old way to set ``segformer_plusplus.mit.cpu.chunked``.

    Raises:
        SegformerPlusPlusError: an argument is unknown, out of range or contradicts another one.
    """

    @checked(
        in_channels=integer(1),
        embed_dims=integer(1) | NONE,
        num_stages=integer(1),
        num_layers=integers(0) | NONE,
        num_heads=integers(1) | NONE,
        patch_sizes=integers(1),
        strides=integers(1),
        sr_ratios=integers(1),
        out_indices=integer(0) | integers(0),
        mlp_ratio=integer(1),
        qkv_bias=FLAG,
        drop_rate=SHARE,
        attn_drop_rate=SHARE,
        drop_path_rate=SHARE_BELOW_ONE,
        act_cfg=CONFIG | NONE,
        norm_cfg=CONFIG | NONE,
        pretrained=FILE | NONE,
        init_cfg=INIT_CFG,
        with_cp=FLAG | one_of(('conv', 'ffn')),
        frozen_stages=integer(-1),
        in_rows=FLAG | NONE,
    )
    def __init__(
        self,
        arch: str | None = None,
        token_merging: TokenMergingConfig = None,
        tome_cfg: str | Sequence[Mapping[str, Any]] | None = None,
        in_channels: int = 3,
        embed_dims: int | None = None,
        num_stages: int = 4,
        num_layers: Sequence[int] | None = None,
        num_heads: Sequence[int] | None = None,
        patch_sizes: Sequence[int] = (7, 3, 3, 3),
        strides: Sequence[int] = (4, 2, 2, 2),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        out_indices: Sequence[int] | int = (0, 1, 2, 3),
        mlp_ratio: int = 4,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
        pretrained: str | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        with_cp: bool | str = False,
        frozen_stages: int = -1,
        in_rows: bool | None = None,
    ) -> None:
        cpu.accept_in_rows(in_rows)
        if pretrained is not None:
            if init_cfg is not None:
                raise SegformerPlusPlusError('pretrained and init_cfg exclude each other')
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        super().__init__(init_cfg=init_cfg)
        sizes = resolve_arch(
            arch, embed_dims=embed_dims, num_heads=num_heads, num_layers=num_layers
        )
        per_stage = dict(
            num_layers=sizes['num_layers'],
            num_heads=sizes['num_heads'],
            patch_sizes=patch_sizes,
            strides=strides,
            sr_ratios=sr_ratios,
        )
        for name, values in per_stage.items():
            if len(values) != num_stages:
                raise SegformerPlusPlusError(
                    f'{name}={values} has {len(values)} entries for num_stages={num_stages}'
                )
        self.out_indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
        if not all(0 <= index < num_stages for index in self.out_indices):
            raise SegformerPlusPlusError(
                f'out_indices={out_indices} has an entry outside 0..{num_stages - 1}'
            )
        if len(set(self.out_indices)) < len(self.out_indices):
            raise SegformerPlusPlusError(f'out_indices={out_indices} names a stage twice')
        if frozen_stages > num_stages:
            raise SegformerPlusPlusError(
                f'frozen_stages={frozen_stages} is outside -1..{num_stages}, the number of stages'
            )
        self.frozen_stages = frozen_stages
        if tome_cfg is not None:
            # the baseline contradicts no tome_cfg: shipped configs start from it
            if token_merging not in (None, BASELINE):
                raise SegformerPlusPlusError('token_merging and tome_cfg exclude each other')
            name = f'tome_cfg={tome_cfg!r}' if isinstance(tome_cfg, str) else 'tome_cfg'
            self.token_merging = build_token_merging(read_tome_cfg(tome_cfg), num_stages, name)
        else:
            self.token_merging = build_token_merging(token_merging, num_stages)
        self.in_channels = in_channels
        self.strides = tuple(strides)
        self.patch_sizes = tuple(patch_sizes)
        self.sr_ratios = tuple(sr_ratios)

        norm_cfg = norm_cfg or dict(type='LN', eps=1e-6)
        act_cfg = act_cfg or dict(type='GELU')
        widths = [sizes['embed_dims'] * heads for heads in sizes['num_heads']]
        last = max(1, sum(sizes['num_layers']) - 1)
        drop_path = [drop_path_rate * block / last for block in range(last + 1)]
        self.layers = nn.ModuleList()
        parts = dict(
            norm_cfg=(norm_cfg, lambda cfg: [build_norm_layer(cfg, width) for width in widths]),
            act_cfg=(act_cfg, build_activation_layer),
        )
        with blaming(self, parts):
            for stage, channels in enumerate(widths):
                embed = OverlapPatchEmbed(
                    in_channels, channels, patch_sizes[stage], strides[stage], norm_cfg
                )
                check_token_norm(embed.norm, norm_cfg)
                blocks = nn.ModuleList(
                    MixTransformerBlock(
                        embed_dims=channels,
                        num_heads=sizes['num_heads'][stage],
                        feedforward_channels=mlp_ratio * channels,
                        sr_ratio=sr_ratios[stage],
                        merging=self.token_merging.stages[stage],
                        drop_rate=drop_rate,
                        attn_drop_rate=attn_drop_rate,
                        drop_path_rate=drop_path.pop(0),
                        qkv_bias=qkv_bias,
                        act_cfg=act_cfg,
                        norm_cfg=norm_cfg,
                        with_cp=with_cp,
                    )
                    for _ in range(sizes['num_layers'][stage])
                )
                norm = build_norm_layer(norm_cfg, channels)[1]
                self.layers.append(nn.ModuleList([embed, blocks, norm]))
                in_channels = channels
        self._freeze()

    def train(self, mode: bool = True) -> MixVisionTransformerPlusPlus:
        """Sets the mode of all that ``frozen_stages`` does not keep as it is."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        stages: Any = self.layers
        first = [stages[0][0]] if self.frozen_stages == 0 else []
        for frozen in (*first, *stages[: max(0, self.frozen_stages)]):
            frozen.eval().requires_grad_(False)

    def init_weights(self) -> None:
        """Initialises as mmseg does, or strictly loads what ``init_cfg`` names."""
        initialise(self, self.init_cfg)
        self._is_init = True

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the features of the stages in ``out_indices``.

        Args:
            image: (B, in_channels, H, W), normalised.

        Returns:
            One (B, C_i, H_i, W_i) per stage, in channels-last layout; with the default strides
            H_i is ceil(H / 4), ceil(H / 8), ... (of the smaller image under downsampling).
        """
        if self.token_merging.downsampling is not None:
            image = self.token_merging.downsampling(image)
        self._check_size(image)
        features = []
        stages: Any = self.layers
        for stage, (embed, blocks, norm) in enumerate(stages):
            tokens, grid = embed(image)
            share = self.token_merging.stages[stage].share
            run = self._run_in_a_row if self._are_in_a_row(tokens, blocks) else self._run
            normed = run(tokens, grid, blocks, norm, share)
            image = tokens_to_image(normed, grid)
            if stage in self.out_indices:
                features.append(image)
        return features

    def _run(self, tokens: Tensor, grid: Grid, blocks: Any, norm: Any, share: int) -> Tensor:
        """Runs the blocks of a stage and its norm, (B, N, C) -> (B, N, C)."""
        for block, plans in zip(blocks, _shared(len(blocks), share), strict=True):
            tokens = block(tokens, grid, plans)
        return norm(tokens)

    def _run_in_a_row(
        self, tokens: Tensor, grid: Grid, blocks: Any, norm: Any, share: int
    ) -> Tensor:
        """Does what ``_run`` does, each residual and the norm after it in one."""
        normed = blocks[0].norm1(tokens)
        following = [*(block.norm1 for block in blocks[1:]), norm]
        for block, plans, then in zip(blocks, _shared(len(blocks), share), following, strict=True):
            tokens, normed = block.run(tokens, normed, grid, plans, then)
        return normed

    def _are_in_a_row(self, tokens: Tensor, blocks: Any) -> bool:
        own = all(type(block) is MixTransformerBlock for block in blocks)
        return own and gpu.works_in_a_row(tokens, blocks)

    def set_token_merging(self, token_merging: TokenMergingConfig) -> None:
        """Changes the strategies of a built model; the weights stay as they are."""
        merging = build_token_merging(token_merging, len(self.layers))
        self.token_merging = merging
        stages: Any = self.layers
        for (_, blocks, _), stage_merging in zip(stages, merging.stages, strict=True):
            for block in blocks:
                block.attn.merging = stage_merging

    def grids(self, height: int, width: int) -> list[tuple[int, int]]:
        """Returns the grid (rows, columns) of every stage for an image of this size in pixels."""
        grids = []
        for patch, stride in zip(self.patch_sizes, self.strides, strict=True):
            height, width = (
                (side + 2 * (patch // 2) - patch) // stride + 1 for side in (height, width)
            )
            grids.append((height, width))
        return grids

    def _check_size(self, image: Tensor) -> None:
        channels, height, width = image.shape[1:]
        if channels != self.in_channels:
            raise SegformerPlusPlusError(
                f'the image has {channels} channels, backbone.in_channels is {self.in_channels}; '
                'load what the model was trained on (color_type of the loader), or change '
                'in_channels'
            )
        for stage, (grid, reduction) in enumerate(
            zip(self.grids(height, width), self.sr_ratios, strict=True), start=1
        ):
            if min(grid) < reduction:
                raise SegformerPlusPlusError(
                    f'an image of {height}x{width} is too small: stage {stage} has a grid of '
                    f'{grid[0]}x{grid[1]} tokens, its spatial reduction (sr_ratios) needs at least '
                    f'{reduction}x{reduction}; the smallest side is {self._smallest_side()} pixels'
                    + (' after downsampling' if self.token_merging.downsampling else '')
                )

    def _smallest_side(self) -> int:
        """Returns how many pixels a side needs, from the last stage back: see ``grids``."""
        side = 1
        for patch, stride, reduction in zip(
            reversed(self.patch_sizes),
            reversed(self.strides),
            reversed(self.sr_ratios),
            strict=True,
        ):
            side = max(1, (max(side, reduction) - 1) * stride + patch - 2 * (patch // 2))
        return side


class MixTransformerBlock(nn.Module):
    """Computes ``x = x + attention(norm(x))``, then ``x = x + ffn(norm(x))``.

    Its arguments are those of the backbone, for one block; ``embed_dims`` is C.
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
        with_cp: bool | str,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.attn = EfficientAttention(
            embed_dims=embed_dims,
            num_heads=num_heads,
            sr_ratio=sr_ratio,
            qkv_bias=qkv_bias,
            attn_drop=attn_drop_rate,
            proj_drop=drop_rate,
            norm=build_norm_layer(norm_cfg, embed_dims)[1],
            merging=merging,
        )
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.ffn = MixFFN(
            embed_dims, feedforward_channels, build_activation_layer(act_cfg), drop_rate
        )
        self.ffn.with_cp = with_cp == 'conv'
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor, grid: Grid, plans: SharedPlans | None = None) -> Tensor:
        """Computes (B, N, C) -> (B, N, C); ``plans`` are those of the blocks that share them."""
        if self.with_cp is True and tokens.requires_grad:
            return checkpoint(self._forward, tokens, grid, plans, use_reentrant=False)
        return self._forward(tokens, grid, plans)

    def run(
        self,
        tokens: Tensor,
        normed: Tensor,
        grid: Grid,
        plans: SharedPlans | None,
        following: nn.Module,
    ) -> tuple[Tensor, Tensor]:
        """Computes what a call does, and its norm; where kernels run, each sum with its norm.

        Args:
            tokens: (B, N, C).
            normed: ``self.norm1(tokens)``.
            grid: (H, W), H * W == N.
            plans: of the blocks that share them.
            following: the norm of what comes next.

        Returns:
            The tokens and the normed tokens, (B, N, C) each.
        """
        plan = None
        if self.training or not is_untouched(self.attn, self.attn.proj_drop, self.drop_path):
            update = self.drop_path(self.attn(normed, grid, plans))
        else:
            update, plan = self.attn.attend_merged(normed, grid, plans)
        tokens, normed = gpu.add_norm(tokens, update, self.norm2, plan)
        return gpu.add_norm(tokens, self.drop_path(self.ffn(normed, grid)), following)

    def _forward(self, tokens: Tensor, grid: Grid, plans: SharedPlans | None) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), grid, plans))
        chunked = not self.training and cpu.works_chunked(tokens) and self.ffn.is_bare()
        if chunked and is_untouched(self.ffn, self.norm2, self.drop_path):
            self.ffn.add_chunked(tokens, grid, self.norm2)
            return tokens
        return tokens + self.drop_path(self._feed_forward(tokens, grid))

    def _feed_forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        if self.with_cp == 'ffn' and torch.is_grad_enabled():
            # a frozen one, of tokens that need no gradient, keeps nothing
            if tokens.requires_grad or any(p.requires_grad for p in self.ffn.parameters()):
                return checkpoint(self._normed_ffn, tokens, grid, use_reentrant=False)
        return self._normed_ffn(tokens, grid)

    def _normed_ffn(self, tokens: Tensor, grid: Grid) -> Tensor:
        return self.ffn(self.norm2(tokens), grid)


class OverlapPatchEmbed(nn.Module):
    """Turns an image, or the features of the stage before, into tokens (SegFormer, section 3.1)."""

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
        """Computes (B, in_channels, H, W) -> (B, N, C) and the grid of the N tokens."""
        image = self.projection(image.contiguous(memory_format=torch.channels_last))
        return self.norm(image_to_tokens(image)), (image.shape[2], image.shape[3])


def _shared(blocks: int, share: int) -> list[SharedPlans | None]:
    """Returns for each block the plans that it shares with those beside it."""
    groups: list[SharedPlans] = [{} for _ in range(0, blocks, share)]
    return [groups[index // share] if share > 1 else None for index in range(blocks)]


def check_token_norm(norm: nn.Module, norm_cfg: dict[str, Any]) -> None:
    """Raises for a norm that wants channels in the second dimension."""
    if isinstance(norm, nn.modules.batchnorm._NormBase | nn.GroupNorm):
        raise SegformerPlusPlusError(
            f'norm_cfg={norm_cfg} is a norm of images; the backbone needs one of tokens (B, N, C), '
            "such as dict(type='LN', eps=1e-6)"
        )
