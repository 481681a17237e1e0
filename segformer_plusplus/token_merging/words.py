"""Says in words what a strategy does, for those who choose one."""

from __future__ import annotations

from collections.abc import Iterator

from .base import TokenMerger
from .bipartite import BipartiteSoftMatching1d, BipartiteSoftMatching2d, TomesdMatching
from .config import StageMerging, TokenMerging
from .neighbor import NeighborMerging1d, NeighborMerging2d

_WEIGHED = {True: ', in proportional attention', 'sampled': ', weighed by attention'}


def in_words(merging: TokenMerging) -> list[str]:
    """Returns a line per stage, as 'keys and values: matching, 60 % merged, 2x2 cells'."""
    lines = ['; '.join(_of_stage(stage)) or 'nothing is merged' for stage in merging.stages]
    first = merging.downsampling
    if first is not None:
        lines[0] = f'the image is made {first.factor} times smaller ({first.mode}); {lines[0]}'
    return lines


def _of_stage(stage: StageMerging) -> Iterator[str]:
    if stage.q is not None:
        yield f'queries: {_of_strategy(stage.q)}'
    if stage.kv is not None:
        weighed = _WEIGHED.get(stage.proportional_attention, '')
        yield f'keys and values: {_of_strategy(stage.kv)}{weighed}'
    if stage.share > 1:
        yield f'one plan for {stage.share} blocks'


def _of_strategy(strategy: TokenMerger) -> str:
    """Returns what one of ours does; of any other, also a subclass of ours, its settings."""
    if type(strategy) is BipartiteSoftMatching2d:
        return f'matching, {_share(strategy.ratio)}, {_cells(strategy.stride)}'
    if type(strategy) is TomesdMatching:
        return f'matching by tomesd, {_share(strategy.ratio)}, {_cells(strategy.stride)}'
    if type(strategy) is BipartiteSoftMatching1d:
        return f'matching of every other token, {_share(strategy.ratio)}'
    if type(strategy) is NeighborMerging2d:
        return f'mean of {_cells(strategy.stride)}'
    if type(strategy) is NeighborMerging1d:
        return f'mean of {strategy.stride} in a row'
    return repr(strategy)


def _share(ratio: float) -> str:
    return f'{100 * ratio:g} % merged'


def _cells(stride: tuple[int, int]) -> str:
    return f'{stride[0]}x{stride[1]} cells'
