"""Which outputs of the backbone a head takes, and whether they are what it was built for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import SegformerPlusPlusError


def pair_levels(
    in_channels: Sequence[int], in_index: Sequence[int] | None, head: str
) -> tuple[list[int], list[int]]:
    """Channels and index of every level that a head takes; by default the first outputs.

    Args:
        in_channels: channels of each level.
        in_index: which of the backbone's outputs they are, or None.
        head: the key of the head in a model, for the message.

    Raises:
        SegformerPlusPlusError: there are not as many of one as of the other.
    """
    channels = list(in_channels)
    index = list(range(len(channels)) if in_index is None else in_index)
    if len(channels) != len(index):
        raise SegformerPlusPlusError(
            f'{head}.in_channels {channels} and {head}.in_index {index} do not go together; '
            'give one index for each number of channels'
        )
    return channels, index


def select_levels(
    features: Sequence[Tensor], in_channels: Sequence[int], in_index: Sequence[int], head: str
) -> list[Tensor]:
    """The outputs of the backbone (B, C_i, H_i, W_i) that a head takes.

    Args:
        features: all outputs of the backbone.
        in_channels: the C_i that the head was built for.
        in_index: which of the outputs these are.
        head: the key of the head in a model, for the message.

    Raises:
        SegformerPlusPlusError: the backbone has fewer outputs, or of other channels.
    """
    if not all(-len(features) <= index < len(features) for index in in_index):
        raise SegformerPlusPlusError(
            f'{head} uses outputs {list(in_index)} of the backbone (in_index), which has only '
            f"{len(features)}; change in_channels and in_index, or the backbone's out_indices"
        )
    levels = [features[index] for index in in_index]
    channels = [level.shape[1] for level in levels]
    if channels != list(in_channels):
        raise SegformerPlusPlusError(
            f'{head}.in_channels is {list(in_channels)}, but the backbone gives {channels} '
            f'(outputs {list(in_index)}); set in_channels to that, or change the backbone'
        )
    return levels
