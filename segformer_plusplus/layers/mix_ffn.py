"""Mix-FFN of SegFormer: the MLP with a depthwise convolution that tells tokens where they are."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from mmcv.cnn import build_activation_layer
from torch import Tensor, nn

from ..token_merging.base import Grid
from .tokens import image_to_tokens, tokens_to_image


class MixFFN(nn.Module):
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
        self, embed_dims: int, feedforward_channels: int, act_cfg: dict[str, Any], ffn_drop: float
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
        modules: Any = self.layers
        expand, depthwise, activate, drop, reduce, _ = modules
        hidden = F.linear(tokens, expand.weight.flatten(1), expand.bias)
        image = depthwise_conv(tokens_to_image(hidden, grid), depthwise)
        hidden = drop(activate(image_to_tokens(image)))
        return drop(F.linear(hidden, reduce.weight.flatten(1), reduce.bias))


def depthwise_conv(image: Tensor, conv: nn.Conv2d) -> Tensor:
    """Run a depthwise convolution on a channels-last image, (B, C, H, W) -> (B, C, H, W).

    The weight (C, 1, 3, 3) is viewed with channels-last strides: with the default ones PyTorch
    takes a path that is five times slower on the CPU, and ``contiguous(channels_last)`` sees
    nothing to change in a tensor with one channel.
    """
    weight = conv.weight.squeeze(1).unsqueeze(-1).permute(0, 3, 1, 2)
    return F.conv2d(image, weight, conv.bias, padding=conv.padding, groups=conv.groups)
