"""The plans that a model makes, observed from outside: the normal path knows nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import SegformerPlusPlusError
from ..patching import PatchableBackbone, find_backbones
from ..token_merging import IdentityPlan, MergePlan, StageMerging, TokenMerger
from ..token_merging.base import Grid

Role = Literal['q', 'kv']

COLUMNS = 256
"""Merged tokens whose places are looked up at a time, of plans that do not copy them."""


@dataclass(frozen=True)
class PlanRecord:
    """One plan of one attention.

    Attributes:
        stage: from 1.
        block: in its stage, from 1.
        role: whether queries ('q') or keys and values ('kv') were merged.
        grid: (H, W) of the tokens before merging.
        batch: images in the batch.
        device: where the plan works.
        plan: what was decided; of type ``IdentityPlan`` where there is no strategy.
    """

    stage: int
    block: int
    role: Role
    grid: Grid
    batch: int
    device: torch.device
    plan: MergePlan

    def groups(self) -> Tensor:
        """Of every token the merged one it goes into: (B, H, W) integers in [0, M)."""
        return group_ids(self.plan, self.batch, self.device).unflatten(1, self.grid)


class _Observer(TokenMerger):
    """A strategy, or none, whose plans are noted for each of the blocks that use them."""

    def __init__(
        self,
        inner: TokenMerger | None,
        stage: int,
        blocks: range,
        role: Role,
        seen: list[PlanRecord],
    ) -> None:
        self._inner = inner
        self._places: list[tuple[int, int, Role]] = [(stage, block, role) for block in blocks]
        self._seen = seen

    def plan(self, tokens: Tensor, grid: Grid) -> MergePlan:
        if self._inner is None:
            plan: MergePlan = IdentityPlan(tokens.shape[1], tokens.device)
        else:
            plan = self._inner.plan(tokens, grid)
        for place in self._places:
            self._seen.append(PlanRecord(*place, grid, len(tokens), tokens.device, plan))
        return plan


@contextmanager
def record_plans(model: nn.Module) -> Iterator[list[PlanRecord]]:
    """Note every plan that the attentions of a model make, in the order in which they make them.

    A plan that blocks share (``share``) is noted at once for each of them. The strategies are
    exchanged for observing ones meanwhile, which changes no number. Not for a model that another
    thread runs at the same time.

    Args:
        model: has one backbone of this package, or one that ``apply_token_merging`` was called on.

    Raises:
        SegformerPlusPlusError: there is no such backbone, or more than one.
    """
    attentions = the_backbone(model).attentions()
    kept = [[attention.merging for attention in stage] for stage in attentions]
    seen: list[PlanRecord] = []
    try:
        for i, stage in enumerate(attentions, 1):
            for j, attention in enumerate(stage, 1):
                merging = attention.merging
                # the first of the blocks that share a plan makes it, the others never ask for one
                blocks = range(j, min(j + merging.share, len(stage) + 1))
                attention.merging = replace(
                    merging,
                    q=_Observer(merging.q, i, blocks, 'q', seen),
                    kv=_Observer(merging.kv, i, blocks, 'kv', seen),
                )
        yield seen
    finally:
        for stage, strategies in zip(attentions, kept, strict=True):
            for attention, merging in zip(stage, strategies, strict=True):
                attention.merging = merging


@contextmanager
def without_merging(model: nn.Module) -> Iterator[None]:
    """Nothing is merged meanwhile, and the image keeps its size."""
    backbone = the_backbone(model)
    before = backbone.merging()
    backbone.set_merging(type(before)(tuple(StageMerging() for _ in before.stages)))
    try:
        yield
    finally:
        backbone.set_merging(before)


def the_backbone(model: nn.Module) -> PatchableBackbone:
    """The only backbone of a model.

    Raises:
        SegformerPlusPlusError: there is none, or more than one.
    """
    found = find_backbones(model)
    if len(found) > 1:
        names = ', '.join(backbone.name for backbone in found)
        raise SegformerPlusPlusError(
            f'the model has {len(found)} backbones ({names}), give one of them'
        )
    return found[0]


def group_ids(plan: MergePlan, batch: int, device: torch.device) -> Tensor:
    """Of every token the merged one that it goes into, whatever kind of plan it is.

    A plan copies merged tokens back to the places they stand for, their numbers too. One that
    mixes them instead is asked for the share of every merged token; the largest one counts.

    Args:
        plan: for ``batch`` images.
        batch: B.
        device: where the plan works.

    Returns:
        (B, N) int64 in [0, M).
    """
    # double precision holds every number, and any mean of them that is none
    numbers = torch.arange(plan.num_merged, dtype=torch.float64, device=device)
    ids = plan.unmerge(numbers.expand(batch, -1)[..., None])[..., 0]
    marks = torch.remainder(numbers * 0.6180339887498949, 1.0)
    again = plan.unmerge(marks.expand(batch, -1)[..., None])[..., 0]
    rounded = ids.round().long().clamp(0, plan.num_merged - 1)
    # a mean of numbers may be a number, too; then its mark is not that number's mark
    if torch.equal(ids, rounded.double()) and torch.equal(again, marks[rounded]):
        return rounded
    best = torch.full_like(ids, -torch.inf)
    for first in range(0, plan.num_merged, COLUMNS):
        width = min(COLUMNS, plan.num_merged - first)
        unit = torch.zeros(batch, plan.num_merged, width, dtype=torch.float64, device=device)
        unit[:, first : first + width] = torch.eye(width, dtype=torch.float64, device=device)
        share, column = plan.unmerge(unit).max(dim=2)
        rounded = torch.where(share > best, column + first, rounded)
        best = torch.maximum(best, share)
    return rounded
