"""Merges tokens by bipartite soft matching.

Tokens are split into destinations and sources, and the sources that are most similar to a
destination are merged into it.

Sources: ToMe (Bolya et al., ICLR 2023) for the matching, tomesd (Bolya and Hoffman, CVPRW 2023) for
destinations on a 2D grid, Segformer++ (Kienzle et al., MIPR 2024) for where it acts in SegFormer.
"""

from __future__ import annotations

from abc import abstractmethod
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from tomesd.merge import bipartite_soft_matching_random2d
from torch import Tensor

from ..errors import TokenMergingError
from ..kernels.matching import matched_index
from ..kernels.runtime import hold, runs_on
from .base import (
    TOKEN_MERGERS,
    Grid,
    IdentityPlan,
    MergePlan,
    TokenMerger,
    check_grid,
    check_ratio,
    check_stride,
    without_autocast,
)
from .plans import SlotPlan

SPLITS = 256
"""Is how many splits of grids are kept, those that came last."""

_splits: dict[Any, tuple[Tensor, Tensor]] = {}


class _BipartiteSoftMatching(TokenMerger):
    """Matches sources and destinations, however the tokens are split into them."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    @abstractmethod
    def split(self, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the indices of sources (S,) and of destinations (D,), each in rising order."""

    def plan(self, tokens: Tensor, grid: Grid) -> MergePlan:
        check_grid(tokens, grid)
        sources, destinations = self.split(grid, tokens.device)
        num_sources = sources.shape[0]  # len() would fix the size of a graph for every size
        merged_away = count_merged(tokens.shape[1], num_sources, self.ratio)
        if merged_away == 0:
            return IdentityPlan(tokens.shape[1], tokens.device)
        num_kept = num_sources - merged_away
        if runs_on(tokens):
            return SlotPlan.of_index(*matched_index(tokens, sources, destinations, num_kept))
        slot = match_tokens(tokens, sources, destinations, num_kept)
        return SlotPlan(slot, tokens.shape[1] - merged_away)


@torch.no_grad()
def match_tokens(tokens: Tensor, sources: Tensor, destinations: Tensor, num_kept: int) -> Tensor:
    """Sends every source but the ``num_kept`` least similar ones to its best destination.

    The similarity is the cosine, in fp32 at least: in bf16 most of the best matches would tie.
    A token of all zeros has similarity 0 to every other one.

    Args:
        tokens: (B, N, C).
        sources: (S,) indices into N.
        destinations: (D,) indices into N; S + D == N.
        num_kept: how many sources stay alone; slots [0, num_kept) are theirs.

    Returns:
        slot: (B, N), the merged token that each token goes into; M = num_kept + D of them.
    """
    batch, num_tokens, _ = tokens.shape
    with without_autocast(tokens.device):
        metric = tokens.double() if tokens.dtype == torch.float64 else tokens.float()
        metric = F.normalize(metric, dim=-1)
        similarity = metric[:, sources] @ metric[:, destinations].transpose(1, 2)
    best, nearest = similarity.max(dim=-1)

    source_slot = nearest + num_kept
    if num_kept:  # ONNX has no operations on nothing
        kept = best.topk(num_kept, dim=1, largest=False, sorted=False).indices
        own = torch.arange(num_kept, device=tokens.device).expand(batch, num_kept)
        source_slot.scatter_(1, kept, own)

    slot = torch.empty(batch, num_tokens, dtype=torch.long, device=tokens.device)
    slot[:, sources] = source_slot
    slot[:, destinations] = torch.arange(destinations.shape[0], device=tokens.device) + num_kept
    return slot


def count_merged(num_tokens: int, num_sources: int, ratio: float) -> int:
    """Returns how many tokens this share of them is, rounded down, at most all sources.

    In a graph for every size it is a product of whole numbers, which all runtimes compute alike.
    There no cell is cut, and a ratio that can be built never reaches all sources.
    """
    if not isinstance(num_tokens, torch.SymInt):
        return min(int(num_tokens * ratio), num_sources)
    share = exact_share(ratio)
    return num_tokens * share.numerator // share.denominator


def exact_share(ratio: float) -> Fraction:
    """Returns the fraction of small whole numbers whose products round as those of the float do.

    A product that is no whole number is further from the next one than floats are from each other.
    One that is, such as 90 * 0.7 = 63, stays it if the float is above the fraction, or so little
    below that it rounds back: by 2^-54 of it, half of the narrowest step between floats.

    Raises:
        TokenMergingError: there is none, as for 0.7: the float of 90 * 0.7 is 62.99999999999999.
    """
    # a denominator of so few digits keeps the products within 32 bits, which is all OpenVINO has
    share = Fraction(ratio).limit_denominator(1000)
    if float(share) != ratio or share - Fraction(ratio) > share / 2**54:
        raise TokenMergingError(
            f'ratio={ratio}: no fraction of small whole numbers rounds as it does for every number '
            'of tokens; take one near it'
        )
    return share


@TOKEN_MERGERS.register_module()
class BipartiteSoftMatching2d(_BipartiteSoftMatching):
    """Matches with one destination per cell of the grid, its top left token.

    Equal to ``tomesd.merge.bipartite_soft_matching_random2d(..., no_rand=True)`` wherever the grid
    is at least one cell large; on a smaller grid the cell is cut to the grid (tomesd would have no
    destination there), and at most all sources are merged.

    Args:
        ratio: share of all tokens that is merged away, in [0, 1 - 1 / (rows * columns)].
        stride: rows and columns of a cell; an int for both.

    Raises:
        TokenMergingError: a ratio or stride out of range. tomesd lowers such a ratio silently.
    """

    def __init__(self, ratio: float, stride: int | tuple[int, int] = 2) -> None:
        self.stride = check_stride(stride, 'BipartiteSoftMatching2d')
        super().__init__(check_ratio_2d(ratio, self.stride, 'BipartiteSoftMatching2d'))

    def split(self, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
        cell = _fit_stride(self.stride, grid)
        return _kept_split(grid, cell, device)


@TOKEN_MERGERS.register_module()
class BipartiteSoftMatching1d(_BipartiteSoftMatching):
    """Splits as ToMe does: even tokens are sources, odd tokens destinations.

    Args:
        ratio: share of all tokens that is merged away, in [0, 0.5].
    """

    def __init__(self, ratio: float) -> None:
        reason = 'every second token is a destination'
        super().__init__(check_ratio(ratio, 0.5, reason, 'BipartiteSoftMatching1d'))

    def split(self, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
        index = torch.arange(grid[0] * grid[1], device=device)
        return index[::2], index[1::2]


@TOKEN_MERGERS.register_module()
class TomesdMatching(TokenMerger):
    """Calls the tomesd library itself: our reference, and the way to its random destinations.

    Args:
        ratio: as in ``BipartiteSoftMatching2d``.
        stride: as in ``BipartiteSoftMatching2d``.
        seed: draws the destination in each cell, the same one at every call; None takes the top
            left token of each cell.
    """

    def __init__(
        self, ratio: float, stride: int | tuple[int, int] = 2, seed: int | None = 0
    ) -> None:
        self.stride = check_stride(stride, 'TomesdMatching')
        self.ratio = check_ratio_2d(ratio, self.stride, 'TomesdMatching')
        integer = isinstance(seed, int) and not isinstance(seed, bool)
        if seed is not None and not (integer and -(2**63) <= seed < 2**64):  # what torch takes
            raise TokenMergingError(
                f'TomesdMatching: seed={seed!r} is not an integer in [-2**63, 2**64) or None'
            )
        self.seed = seed

    def plan(self, tokens: Tensor, grid: Grid) -> MergePlan:
        check_grid(tokens, grid)
        sy, sx = _fit_stride(self.stride, grid)
        num_tokens = tokens.shape[1]
        num_destinations = (grid[0] // sy) * (grid[1] // sx)
        merged_away = min(int(num_tokens * self.ratio), num_tokens - num_destinations)
        if merged_away == 0:
            return IdentityPlan(num_tokens, tokens.device)
        generator = None
        if self.seed is not None:
            generator = torch.Generator(tokens.device).manual_seed(self.seed)
        return _TomesdPlan(tokens, grid, (sy, sx), merged_away, generator)


class _TomesdPlan(MergePlan):
    def __init__(
        self,
        tokens: Tensor,
        grid: Grid,
        stride: tuple[int, int],
        merged_away: int,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__(tokens.shape[1], tokens.shape[1] - merged_away)
        self._ones = tokens.new_ones(*tokens.shape[:2], 1, dtype=torch.float32)
        self._merge, self._unmerge = bipartite_soft_matching_random2d(
            tokens.detach(),
            w=grid[1],
            h=grid[0],
            sx=stride[1],
            sy=stride[0],
            r=merged_away,
            no_rand=generator is None,
            generator=generator,
        )

    def merge(self, tokens: Tensor) -> Tensor:
        if tokens.dtype in (torch.float16, torch.bfloat16):
            return self._merge(tokens.float()).to(tokens.dtype)
        return self._merge(tokens)

    def unmerge(self, tokens: Tensor) -> Tensor:
        return self._unmerge(tokens)

    def sizes(self) -> Tensor:
        return self._merge(self._ones, mode='sum').squeeze(-1).long()


def _fit_stride(stride: tuple[int, int], grid: Grid) -> tuple[int, int]:
    (sy, sx), (height, width) = stride, grid
    # no min(): a graph for every size knows that its grids are no smaller, and holds no minimum
    return height if height < sy else sy, width if width < sx else sx


def highest_ratio(stride: tuple[int, int]) -> float:
    """Returns the share of the tokens that is merged away if one of each cell stays."""
    return 1 - 1 / (stride[0] * stride[1])


def check_ratio_2d(ratio: float, stride: tuple[int, int], owner: str) -> float:
    """Returns ``ratio`` if one token of each cell can stay."""
    reason = f'one token in each {stride[0]}x{stride[1]} cell is a destination'
    return check_ratio(ratio, highest_ratio(stride), reason, owner)


def _split_grid(grid: Grid, cell: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns all tokens but the top left ones of whole cells, and these, in rising order."""
    (height, width), (sy, sx) = grid, cell
    rows, columns = height // sy, width // sx
    # By views instead of nonzero() or a sort: how many there are is known, so that a compiler can
    # trace it, and a graph of one size holds two constants.
    bands = torch.arange(rows * sy * width, device=device).view(rows, sy * width)
    cells = bands[:, : columns * sx].view(rows, columns, sx)  # their first row
    within = torch.cat([cells[:, :, 1:].flatten(1), bands[:, columns * sx :]], dim=1).flatten()
    # those in rows below all cells come after all destinations
    sources = torch.arange(rows * columns, height * width, device=device)
    sources[: within.shape[0]] = within
    return sources, cells[:, :, 0].flatten()


def _kept_split(grid: Grid, cell: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns what ``_split_grid`` does, or did before."""
    # a tensor of a mode, such as one without numbers, lives no longer than that
    if torch.compiler.is_compiling() or type(torch.empty(0, device=device)) is not Tensor:
        return _split_grid(grid, cell, device)
    # on another stream, what this one computes might not be there yet
    stream = torch.cuda.current_stream(device) if device.type == 'cuda' else None
    key = grid, cell, device, stream
    split = _splits.get(key)
    if split is None:
        # an index made in inference mode could not be saved for a later backward pass
        with torch.inference_mode(False):
            split = _split_grid(grid, cell, device)
        if stream is None or not torch.cuda.is_current_stream_capturing():
            _splits[key] = split
            while len(_splits) > SPLITS:
                _splits.pop(next(iter(_splits)), None)
    return hold(split)
