"""Which tokens of an image were merged, and what that changed in the prediction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..errors import SegformerPlusPlusError
from ..patching import PatchableBackbone, find_backbones
from ..token_merging import IdentityPlan, MergePlan, StageMerging, TokenMerger
from ..token_merging.base import Grid
from .labels import resize_and_argmax

Role = Literal['q', 'kv']

COLUMNS = 256
"""Merged tokens whose places are looked up at a time, of plans that do not copy them."""

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's


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


def to_inputs(model: nn.Module, image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (1, 3, H, W), normalised, on the model's device.

    By the ``data_preprocessor`` of OpenMMLab's models, which gets BGR as from mmcv's loader; with
    the mean and deviation of ImageNet where there is none that makes a batch.
    """
    first = next(model.parameters())
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
    inputs = None
    if hasattr(model, 'data_preprocessor'):
        preprocess: Any = model.data_preprocessor
        data = dict(inputs=[pixels.flip(0)], data_samples=[BaseDataElement()])
        inputs = preprocess(data, False)['inputs']
    if not isinstance(inputs, Tensor):  # mmengine's base class only moves images to the device
        mean, std = (torch.tensor(each)[:, None, None] for each in (_MEAN, _STD))
        inputs = ((pixels - mean) / std)[None]
    if inputs.shape[2:] != image.shape[:2]:
        raise SegformerPlusPlusError(
            f"the model's data_preprocessor makes {inputs.shape[2]}x{inputs.shape[3]} of an image "
            f'of {image.shape[0]}x{image.shape[1]}; give an image that it does not pad'
        )
    return inputs.to(first)


def predict_labels(model: nn.Module, inputs: Tensor) -> Tensor | None:
    """(1, 3, H, W), normalised -> labels (H, W); None if the model does not segment.

    The whole image at once, also where a segmentor of mmseg would slide a window over it.
    """
    module: Any = model
    if hasattr(module, 'extract_feat'):
        output = module(inputs, None, mode='tensor')
        segments = hasattr(module, 'decode_head')
    else:
        output = module(inputs)
        output = getattr(output, 'logits', output)
        segments = isinstance(output, Tensor)
    if not segments or output.dim() != 4:
        return None
    size = (inputs.shape[2], inputs.shape[3])
    if output.shape[1] == 1:  # one class: its logit against 0
        output = torch.cat([torch.zeros_like(output), output], dim=1)
    return resize_and_argmax(output, size)[0]


@dataclass(frozen=True)
class MergeMap:
    """What one attention merged.

    Attributes:
        stage: from 1.
        block: in its stage, from 1.
        role: queries ('q') or keys and values ('kv').
        groups: (h, w) integers over the grid of tokens; equal ones were merged into one.
        num_merged: how many tokens were left.
    """

    stage: int
    block: int
    role: Role
    groups: np.ndarray
    num_merged: int

    @property
    def num_tokens(self) -> int:
        """Tokens before merging."""
        return self.groups.size

    @property
    def share_merged(self) -> float:
        """The share of the tokens that was merged away, in [0, 1)."""
        return 1 - self.num_merged / self.num_tokens


@dataclass(frozen=True)
class MergeMaps:
    """What a model merged in one image.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        maps: of every attention, queries before keys and values.
        labels: (H, W), the prediction; None of a model that does not segment.
        labels_unmerged: that without merging.
    """

    image: np.ndarray
    maps: tuple[MergeMap, ...]
    labels: np.ndarray | None
    labels_unmerged: np.ndarray | None

    def of_stage(self, stage: int, block: int = -1) -> list[MergeMap]:
        """The maps of one block of a stage: the last one, or that number from 1.

        Where something was merged only the roles that were; otherwise that of the queries.

        Raises:
            SegformerPlusPlusError: there is no such block.
        """
        inside = [each for each in self.maps if each.stage == stage]
        blocks = max((each.block for each in inside), default=0)
        wanted = blocks if block == -1 else block
        found = [each for each in inside if each.block == wanted]
        if not found:
            raise SegformerPlusPlusError(
                f'there is no block {block} in stage {stage}, it has {blocks} (from 1, -1 the last)'
            )
        return [each for each in found if each.num_merged < each.num_tokens] or found[:1]

    @property
    def num_stages(self) -> int:
        """How many stages the backbone has."""
        return max(each.stage for each in self.maps)

    @property
    def changed(self) -> np.ndarray | None:
        """(H, W) bool: where merging changes the label."""
        if self.labels is None or self.labels_unmerged is None:
            return None
        return self.labels != self.labels_unmerged

    @property
    def share_changed(self) -> float | None:
        """The share of the pixels whose label merging changes, in [0, 1]."""
        return None if self.changed is None else float(self.changed.mean())


def merge_map(model: nn.Module, image: np.ndarray, inputs: Tensor | None = None) -> MergeMaps:
    """Run a model on an image and note what each of its attentions merges.

    It runs twice in evaluation mode, with its strategies and without merging, and is left as it
    was.

    Args:
        model: a segmentor, or another model whose backbone is of this package or was given a
            strategy by ``apply_token_merging``.
        image: (H, W, 3) uint8, RGB.
        inputs: (1, 3, H, W), the image as the model takes it. None: normalised by the model's
            ``data_preprocessor`` (OpenMMLab), or by the mean and deviation of ImageNet.

    Raises:
        SegformerPlusPlusError: not such an image, or nothing was applied to the model.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise SegformerPlusPlusError(
            f'image: expected (H, W, 3) uint8, got {image.shape} {image.dtype}'
        )
    if inputs is None:
        inputs = to_inputs(model, image)
    elif tuple(inputs.shape) != (1, 3, *image.shape[:2]):
        raise SegformerPlusPlusError(
            f'inputs: expected {(1, 3, *image.shape[:2])} for this image, got {tuple(inputs.shape)}'
        )
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            with record_plans(model) as records:
                labels = predict_labels(model, inputs)
            maps = tuple(_to_map(record) for record in records)
            with without_merging(model):
                plain = None if labels is None else predict_labels(model, inputs)
    finally:
        for module in training:
            module.training = True
    return MergeMaps(image, maps, _to_numpy(labels), _to_numpy(plain))


def _to_map(record: PlanRecord) -> MergeMap:
    groups = record.groups()[0].cpu().numpy()
    return MergeMap(record.stage, record.block, record.role, groups, record.plan.num_merged)


def _to_numpy(labels: Tensor | None) -> np.ndarray | None:
    return None if labels is None else labels.cpu().numpy()
