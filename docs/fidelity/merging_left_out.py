"""Holds strategies that were tried on photographs and left out."""

import torch
import torch.nn.functional as F

from segformer_plusplus.token_merging import (
    TOKEN_MERGERS,
    BipartiteSoftMatching2d,
    IdentityPlan,
    TokenMerger,
)
from segformer_plusplus.token_merging.bipartite import match_tokens
from segformer_plusplus.token_merging.plans import SlotPlan


@TOKEN_MERGERS.register_module(force=True)
class ThresholdMatching(BipartiteSoftMatching2d):
    """Merges what is alike enough, so that flat images are merged harder: one image at a time.

    Args:
        ratio: share of all tokens that is merged away on average of all calls: the cosine from
            which on a source is merged is that quantile of all that were seen.
        stride: rows and columns of a cell.
    """

    def __init__(self, ratio, stride=3):
        super().__init__(ratio, stride)
        self._seen = []

    def plan(self, tokens, grid):
        sources, destinations = self.split(grid, tokens.device)
        unit = F.normalize(tokens.float(), dim=-1)
        alike = (unit[:, sources] @ unit[:, destinations].transpose(1, 2)).amax(dim=-1)
        self._seen.append(alike.flatten())
        share = self.ratio * tokens.shape[1] / len(sources)
        threshold = torch.cat(self._seen[-1000:]).quantile(1 - share)
        merged_away = int((alike >= threshold).sum())
        if merged_away == 0:
            return IdentityPlan(tokens.shape[1], tokens.device)
        slot = match_tokens(tokens, sources, destinations, len(sources) - merged_away)
        return SlotPlan(slot, tokens.shape[1] - merged_away)


@TOKEN_MERGERS.register_module(force=True)
class FarthestPoints(TokenMerger):
    """Takes as destinations tokens that are far from each other, and merges all others into them.

    Args:
        ratio: share of all tokens that is merged away.
    """

    def __init__(self, ratio):
        self.ratio = ratio

    @torch.no_grad()
    def plan(self, tokens, grid):
        batch, count, _ = tokens.shape
        unit = F.normalize(tokens.float(), dim=-1)
        left = count - int(count * self.ratio)
        chosen = torch.zeros(batch, 1, dtype=torch.long, device=tokens.device)
        best = torch.full((batch, count), -2.0, device=tokens.device)
        rows = torch.arange(batch, device=tokens.device)
        slot = torch.zeros(batch, count, dtype=torch.long, device=tokens.device)
        for number in range(left):
            newest = chosen[:, -1]
            alike = (unit @ unit[rows, newest].unsqueeze(-1)).squeeze(-1)
            closer = alike > best
            slot[closer], best[closer] = number, alike[closer]
            chosen = torch.cat([chosen, best.argmin(dim=1, keepdim=True)], dim=1)
        return SlotPlan(slot, left)


@TOKEN_MERGERS.register_module(force=True)
class MatchingInRounds(TokenMerger):
    """Matches as ToMe does, every second token a source, again and again.

    Args:
        ratio: share of all tokens that is merged away.
    """

    def __init__(self, ratio):
        self.ratio = ratio

    @torch.no_grad()
    def plan(self, tokens, grid):
        left = tokens.shape[1] - int(tokens.shape[1] * self.ratio)
        slot = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        merged = tokens
        while merged.shape[1] > left:
            index = torch.arange(merged.shape[1], device=tokens.device)
            sources = index[::2]
            away = min(merged.shape[1] - left, len(sources))
            step = match_tokens(merged, sources, index[1::2], len(sources) - away)
            slot = step.gather(1, slot)
            merged = SlotPlan(slot, merged.shape[1] - away).merge(tokens)
        return SlotPlan(slot, left)


@TOKEN_MERGERS.register_module(force=True)
class GrownDestinations(BipartiteSoftMatching2d):
    """Adds the tokens that are least like any destination to the destinations, in rounds.

    Args:
        ratio: share of all tokens that is merged away.
        stride: rows and columns of a cell of the first destinations.
        rounds: of the others, of which each round finds as many.
    """

    def __init__(self, ratio, stride=6, rounds=3):
        super().__init__(ratio, stride)
        self.rounds = rounds

    @torch.no_grad()
    def plan(self, tokens, grid):
        batch, count, channels = tokens.shape
        left = count - int(count * self.ratio)
        unit = F.normalize(tokens.float(), dim=-1)
        new = self.split(grid, tokens.device)[1].expand(batch, -1)
        best = torch.full((batch, count), -2.0, device=tokens.device)
        slot = torch.zeros(batch, count, dtype=torch.long, device=tokens.device)
        found = 0
        for rounds in range(self.rounds, -1, -1):
            chosen = unit.gather(1, new.unsqueeze(-1).expand(-1, -1, channels))
            alike, nearest = (unit @ chosen.transpose(1, 2)).max(dim=-1)
            slot = torch.where(alike > best, nearest + found, slot)
            best = torch.maximum(alike, best)
            own = torch.arange(new.shape[1], device=tokens.device).expand(batch, -1)
            slot.scatter_(1, new, own + found)
            best.scatter_(1, new, 2.0)
            found += new.shape[1]
            if rounds:
                new = best.topk((left - found) // rounds, dim=1, largest=False).indices
        return SlotPlan(slot, left)
