"""What the fuzz tests draw from: strategies of merging, grids, tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import Phase, settings, strategies as st
from torch import Tensor

from segformer_plusplus.token_merging import (
    BipartiteSoftMatching1d,
    BipartiteSoftMatching2d,
    NeighborMerging1d,
    NeighborMerging2d,
    TokenMerger,
    TomesdMatching,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
PRECISE = [torch.float32, torch.float64]


def cases(share: float, shrink: bool = True) -> Callable[[Any], Any]:
    """``@settings`` with this share of the profile's cases: the slower a case, the smaller.

    Args:
        share: times the profile's ``max_examples``.
        shrink: False where a case is as small as it gets.
    """
    phases = [p for p in settings().phases if shrink or p not in (Phase.shrink, Phase.explain)]
    most = max(1, math.ceil(settings().max_examples * share))
    return settings(max_examples=most, phases=phases)


grids = st.one_of(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.just(1), st.integers(1, 60)),
    st.tuples(st.integers(1, 60), st.just(1)),
    st.tuples(st.integers(10, 24), st.integers(10, 24)),
)
sides = st.integers(1, 6)
strides = st.one_of(sides, st.tuples(sides, sides), st.lists(sides, min_size=2, max_size=2))


def highest_ratio(stride: Any) -> float:
    rows, columns = (stride, stride) if isinstance(stride, int) else stride
    return 1 - 1 / (rows * columns)


@st.composite
def settings_2d(draw: Any) -> dict[str, Any]:
    """Stride and ratio of a matching on the grid, the ends of the range often."""
    stride = draw(strides)
    most = highest_ratio(stride)
    ratio = draw(st.one_of(st.just(0), st.just(most), st.floats(0, most)))
    return dict(ratio=ratio, stride=stride)


ratios_1d = st.one_of(st.just(0.0), st.just(0.5), st.floats(0, 0.5))
seeds = st.one_of(st.none(), st.integers(0, 2**63))

configs = st.one_of(
    settings_2d().map(lambda s: dict(type='BipartiteSoftMatching2d', **s)),
    st.tuples(settings_2d(), seeds).map(lambda s: dict(type='TomesdMatching', **s[0], seed=s[1])),
    ratios_1d.map(lambda r: dict(type='BipartiteSoftMatching1d', ratio=r)),
    st.integers(1, 70).map(lambda s: dict(type='NeighborMerging1d', stride=s)),
    strides.map(lambda s: dict(type='NeighborMerging2d', stride=s)),
)
"""Every strategy of the package as a config says it."""

CLASSES: dict[str, type[TokenMerger]] = {
    cls.__name__: cls
    for cls in (
        BipartiteSoftMatching1d,
        BipartiteSoftMatching2d,
        NeighborMerging1d,
        NeighborMerging2d,
        TomesdMatching,
    )
}


def build(config: dict[str, Any]) -> TokenMerger:
    return CLASSES[config['type']](**{k: v for k, v in config.items() if k != 'type'})


mergers = configs.map(build)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CONTENTS: dict[str, Callable[[Tensor], Tensor]] = {
    'random': lambda x: x,
    'zero': lambda x: x * 0,
    'one': lambda x: x * 0 + 1,
    'few values': lambda x: x.round(),
    'mostly zero': lambda x: x * (x.abs().amax(-1, keepdim=True) > 1.5),
    'equal tokens': lambda x: x[:, :1].expand_as(x),
    'opposite tokens': lambda x: x[:, :1] * x.sign(),
    'large': lambda x: x * 2000,
    'very large': lambda x: x * 1e15,
    'small': lambda x: x * 1e-6,
    'subnormal': lambda x: x * 1e-40,
    'both scales': lambda x: torch.where(x.abs() > 1, x * 1e4, x * 1e-4),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    'contiguous': lambda x: x.contiguous(),
    'channels first': lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    'every second channel': lambda x: x.repeat_interleave(2, dim=2)[..., ::2],
    'every second token': lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
    'batch last': lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    'part of a larger one': lambda x: torch.cat([x, x], dim=2)[..., : x.shape[2]],
}


@st.composite
def tokens_on_grids(
    draw: Any, dtypes: Any = tuple(DTYPES), contents: Any = tuple(CONTENTS), least_batch: int = 0
) -> tuple[Tensor, tuple[int, int]]:
    """Tokens (B, H * W, C) of some dtype, content and memory layout, and their grid."""
    grid = draw(grids)
    batch, channels = draw(st.integers(least_batch, 3)), draw(st.integers(1, 9))
    dtype, content = draw(st.sampled_from(dtypes)), draw(st.sampled_from(contents))
    tokens = random(draw(st.integers(0, 2**31)), batch, grid[0] * grid[1], channels)
    largest = torch.finfo(dtype).max / max(1, 10 * tokens.shape[1])
    # a sum over all tokens must be a number of the dtype
    wide = CONTENTS[content](tokens).clamp(-largest, largest)
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](wide.to(dtype)), grid
