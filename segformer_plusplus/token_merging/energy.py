"""Matching that protects distinct tokens by an energy score.

Source: PiToMe (Tran et al., NeurIPS 2024), algorithm 1. Written from the paper's description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import TOKEN_MERGERS, Grid, IdentityPlan, MergePlan, TokenMerger, check_grid, check_ratio
from .plans import SlotPlan

ROWS = 2**22
"""Similarities that are worked on at a time."""


@TOKEN_MERGERS.register_module()
class EnergyMatching(TokenMerger):
    """Of the tokens with the highest energy, every second one goes into its best match.

    The energy of a token is the mean over all tokens of f(cosine), with f(x) = x from the margin on
    and exp(x - margin) - 1 below: it is high in large clusters, whose tokens may merge, and low for
    tokens that stand alone, which are kept. Time grows with the square of the tokens.

    Args:
        ratio: share of all tokens that is merged away, in [0, 0.5].
        margin: cosine from which on two tokens are alike (the paper: 0.9 falling to 0 over the
            depth).
        reduce: 'mean' or 'mlerp', see :class:`SlotPlan`.
    """

    def __init__(self, ratio: float, margin: float = 0.9, reduce: str = 'mean') -> None:
        self.ratio = check_ratio(ratio, 0.5, 'tokens merge in pairs', 'EnergyMatching')
        self.margin = margin
        self.reduce = reduce

    def plan(self, tokens: Tensor, grid: Grid) -> MergePlan:
        check_grid(tokens, grid)
        batch, number, _ = tokens.shape
        count = int(number * self.ratio)
        if count == 0:
            return IdentityPlan(number, tokens.device)
        with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
            metric = tokens if tokens.dtype == torch.float64 else tokens.float()
            unit = F.normalize(metric, dim=-1)
            order = self._energy(unit).argsort(dim=1, descending=True)
            sources, targets = order[:, 0 : 2 * count : 2], order[:, 1 : 2 * count : 2]
            first, second = (_take(unit, index) for index in (sources, targets))
            nearest = (first @ second.transpose(1, 2)).max(-1).indices
            stays = torch.ones(batch, number, dtype=torch.long, device=tokens.device)
            stays.scatter_(1, sources, 0)
            slot = stays.cumsum(1) - 1
            slot.scatter_(1, sources, slot.gather(1, targets.gather(1, nearest)))
        return SlotPlan(slot, number - count, reduce=self.reduce)

    def _energy(self, unit: Tensor) -> Tensor:
        """(B, N, C) unit vectors -> (B, N)."""
        parts = []
        for part in unit.split(max(1, ROWS // unit.shape[1]), dim=1):
            cosine = part @ unit.transpose(1, 2)
            low = torch.expm1(cosine - self.margin)
            parts.append(torch.where(cosine >= self.margin, cosine, low).mean(-1))
        return torch.cat(parts, dim=1)


def _take(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, N, C), (B, M) -> (B, M, C)."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[2]))
