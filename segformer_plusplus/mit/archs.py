"""Holds the sizes of MiT (SegFormer, table 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import SegformerPlusPlusError

_HEADS = (1, 2, 5, 8)

ARCHS: dict[str, dict[str, Any]] = {
    'b0': dict(embed_dims=32, num_heads=_HEADS, num_layers=(2, 2, 2, 2)),
    'b1': dict(embed_dims=64, num_heads=_HEADS, num_layers=(2, 2, 2, 2)),
    'b2': dict(embed_dims=64, num_heads=_HEADS, num_layers=(3, 4, 6, 3)),
    'b3': dict(embed_dims=64, num_heads=_HEADS, num_layers=(3, 4, 18, 3)),
    'b4': dict(embed_dims=64, num_heads=_HEADS, num_layers=(3, 8, 27, 3)),
    'b5': dict(embed_dims=64, num_heads=_HEADS, num_layers=(3, 6, 40, 3)),
}
"""Maps a size to its settings; stage i has ``embed_dims * num_heads[i]`` channels."""

_DEFAULTS = dict(embed_dims=64, num_heads=(1, 2, 4, 8), num_layers=(3, 4, 6, 3))  # mmseg's


def resolve_arch(arch: str | None, **explicit: Any) -> dict[str, Any]:
    """Returns the sizes of ``arch``, or the explicit ones over mmseg's defaults.

    Args:
        arch: 'b0' to 'b5', or None.
        **explicit: ``embed_dims``, ``num_heads``, ``num_layers``; None where not given.

    Raises:
        SegformerPlusPlusError: an unknown arch, or an explicit size that contradicts it.
    """
    given = {key: value for key, value in explicit.items() if value is not None}
    if arch is None:
        return {**_DEFAULTS, **given}
    if not isinstance(arch, str) or arch not in ARCHS:
        raise SegformerPlusPlusError(f'arch={arch!r} is unknown, use one of {list(ARCHS)}')
    sizes = ARCHS[arch]
    for key, value in given.items():
        if (tuple(value) if isinstance(value, Sequence) else value) != sizes[key]:
            raise SegformerPlusPlusError(
                f'arch={arch!r} has {key}={sizes[key]}, but {key}={value} was given; '
                'leave out one of the two'
            )
    return dict(sizes)
