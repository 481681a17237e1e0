"""Finds which tokens of an image are merged, and what that changes in the prediction."""

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
from ..segmentation.labels import labels_of
from ..token_merging import IdentityPlan, MergePlan, StageMerging, TokenMerger
from ..token_merging.base import Grid

Role = Literal['q', 'kv']
ROLES: dict[Role, str] = {'q': 'queries', 'kv': 'keys and values'}

TRACED = 256
"""Merged tokens that are traced at a time, for plans whose unmerge does not copy."""

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's


@dataclass(frozen=True)
class PlanRecord:
    """Holds the plan of one attention.

    Attributes:
        stage: counted from 1.
        block: counted from 1 in its stage.
        role: whether queries ('q') or keys and values ('kv') were merged.
        grid: (H, W) of the tokens before merging.
        batch: images in the batch.
        device: where the plan works.
        plan: an ``IdentityPlan`` where there is no strategy.
    """

    stage: int
    block: int
    role: Role
    grid: Grid
    batch: int
    device: torch.device
    plan: MergePlan

    def groups(self) -> Tensor:
        """Returns the number in [0, M) of the merged token of every token, (B, H, W) int64."""
        return group_ids(self.plan, self.batch, self.device).unflatten(1, self.grid)


class _Observer(TokenMerger):
    """Records the plans of a strategy, or of none, for each of the blocks that use them."""

    def __init__(
        self,
        inner: TokenMerger | None,
        places: list[tuple[int, int, Role]],
        seen: list[PlanRecord],
    ) -> None:
        self._inner, self._places, self._seen = inner, places, seen

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
    """Records every plan that the attentions of a model make, in their order.

    A plan that blocks share (``share``) is recorded for each of them at once. Meanwhile the
    strategies are wrapped, which changes no number; no other thread may run the model.

    Args:
        model: has one backbone of this package, or one that ``apply_token_merging`` was called on.

    Raises:
        SegformerPlusPlusError: the model has no such backbone, or more than one.
    """
    attentions = the_backbone(model).attentions()
    kept = [(attention, attention.merging) for stage in attentions for attention in stage]
    seen: list[PlanRecord] = []
    try:
        for i, stage in enumerate(attentions, 1):
            for j, attention in enumerate(stage, 1):
                merging = attention.merging
                # the first of the blocks that share a plan makes it
                blocks = range(j, min(j + merging.share, len(stage) + 1))
                attention.merging = replace(
                    merging,
                    q=_Observer(merging.q, [(i, block, 'q') for block in blocks], seen),
                    kv=_Observer(merging.kv, [(i, block, 'kv') for block in blocks], seen),
                )
        yield seen
    finally:
        for attention, merging in kept:
            attention.merging = merging


@contextmanager
def without_merging(model: nn.Module) -> Iterator[None]:
    """Switches off merging and downsampling meanwhile."""
    backbone = the_backbone(model)
    before = backbone.merging()
    backbone.set_merging(type(before)(tuple(StageMerging() for _ in before.stages)))
    try:
        yield
    finally:
        backbone.set_merging(before)


def the_backbone(model: nn.Module) -> PatchableBackbone:
    """Returns the only backbone of a model.

    Raises:
        SegformerPlusPlusError: the model has no backbone, or more than one.
    """
    found = find_backbones(model)
    if len(found) > 1:
        names = ', '.join(backbone.name for backbone in found)
        raise SegformerPlusPlusError(
            f'the model has {len(found)} backbones ({names}), give one of them'
        )
    return found[0]


def group_ids(plan: MergePlan, batch: int, device: torch.device) -> Tensor:
    """Returns the number of the merged token of every token, for any kind of plan.

    Most plans unmerge by copying merged tokens to all their places, so that numbers are copied,
    too. Of a plan that mixes merged tokens, the one with the largest share counts.

    Args:
        plan: for ``batch`` images.
        batch: B.
        device: where the plan works.

    Returns:
        (B, N) int64 in [0, M).
    """
    # in double precision, every number and every mean is exact enough to tell them apart
    numbers = torch.arange(plan.num_merged, dtype=torch.float64, device=device)
    ids = plan.unmerge(numbers.expand(batch, -1)[..., None])[..., 0]
    marks = torch.remainder(numbers * 0.6180339887498949, 1.0)
    again = plan.unmerge(marks.expand(batch, -1)[..., None])[..., 0]
    rounded = ids.round().long().clamp(0, plan.num_merged - 1)
    # a mean of numbers may be a number, too, but the mean of their marks is not its mark
    if torch.equal(ids, rounded.double()) and torch.equal(again, marks[rounded]):
        return rounded
    best = torch.full_like(ids, -torch.inf)
    for first in range(0, plan.num_merged, TRACED):
        width = min(TRACED, plan.num_merged - first)
        unit = torch.zeros(batch, plan.num_merged, width, dtype=torch.float64, device=device)
        unit[:, first : first + width] = torch.eye(width, dtype=torch.float64, device=device)
        share, column = plan.unmerge(unit).max(dim=2)
        rounded = torch.where(share > best, column + first, rounded)
        best = torch.maximum(best, share)
    return rounded


def to_inputs(model: nn.Module, image: np.ndarray) -> Tensor:
    """Normalises an image (H, W, C) or (H, W) to (1, C, H, W) on the model's device.

    Three channels are RGB. Uses the ``data_preprocessor`` of OpenMMLab's models, which takes BGR as
    from mmcv's loader, or the mean and deviation of ImageNet if none makes a batch.
    """
    image, inputs = np.atleast_3d(image), None
    if hasattr(model, 'data_preprocessor'):
        preprocess: Any = model.data_preprocessor
        pixels = torch.from_numpy(turned(image).copy()).permute(2, 0, 1)
        data = dict(inputs=[pixels], data_samples=[BaseDataElement()])
        inputs = preprocess(data, False)['inputs']
    if not isinstance(inputs, Tensor):  # mmengine's base class only moves images to the device
        if image.shape[2] != 3:
            raise SegformerPlusPlusError(
                f'an image of {image.shape[2]} channels, and the model has no data_preprocessor '
                'that normalises it; give inputs'
            )
        scaled = (torch.from_numpy(image.copy()) - torch.tensor(_MEAN)) / torch.tensor(_STD)
        inputs = scaled.permute(2, 0, 1)[None]
    if inputs.shape[2:] != image.shape[:2]:
        raise SegformerPlusPlusError(
            f"the model's data_preprocessor makes {inputs.shape[2]}x{inputs.shape[3]} of an image "
            f'of {image.shape[0]}x{image.shape[1]}; give an image that it does not pad'
        )
    first = next(model.parameters(), None)  # an exported file has none
    return inputs if first is None else inputs.to(first)


def turned(image: np.ndarray) -> np.ndarray:
    """Turns RGB into BGR, or back; an image of another number of channels stays as it is."""
    return image[..., ::-1] if image.shape[2:] == (3,) else image


def predict_labels(model: nn.Module, inputs: Tensor) -> Tensor | None:
    """Predicts labels (H, W) of normalised images (1, C, H, W); None for other models.

    Takes the whole image at once, also where a segmentor of mmseg would slide a window over it.
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
    return labels_of(output, size, getattr(module, 'decode_head', None))[0]


@dataclass(frozen=True)
class MergeMap:
    """Holds what one attention merged.

    Attributes:
        stage: counted from 1.
        block: counted from 1 in its stage.
        role: queries ('q') or keys and values ('kv').
        groups: (h, w) integers over the grid of tokens; tokens with equal ones were merged.
        num_merged: number of tokens after merging.
    """

    stage: int
    block: int
    role: Role
    groups: np.ndarray
    num_merged: int

    @property
    def num_tokens(self) -> int:
        """Counts the tokens before merging."""
        return self.groups.size

    @property
    def share_merged(self) -> float:
        """Returns the share of the tokens that was merged away, in [0, 1)."""
        return 1 - self.num_merged / self.num_tokens


@dataclass(frozen=True)
class MergeMaps:
    """Holds what a model merged in one image.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        maps: one for queries and one for keys and values of every attention.
        labels: predicted labels (H, W); None for a model that does not segment.
        labels_unmerged: labels without merging.
    """

    image: np.ndarray
    maps: tuple[MergeMap, ...]
    labels: np.ndarray | None
    labels_unmerged: np.ndarray | None

    def of_stage(self, stage: int, block: int = -1) -> list[MergeMap]:
        """Returns the maps of one block of a stage: the block of that number, or the last (-1).

        Leaves out queries, or keys and values, that were not merged; keeps one map at least.

        Raises:
            SegformerPlusPlusError: the stage has no such block.
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
        """Counts the stages of the backbone."""
        return max(each.stage for each in self.maps)

    @property
    def changed(self) -> np.ndarray | None:
        """Tells for every pixel (H, W) whether merging changes its label."""
        if self.labels is None or self.labels_unmerged is None:
            return None
        return self.labels != self.labels_unmerged

    @property
    def share_changed(self) -> float | None:
        """Returns the share of the pixels whose label merging changes, in [0, 1]."""
        return None if self.changed is None else float(self.changed.mean())


def merge_map(model: nn.Module, image: np.ndarray, inputs: Tensor | None = None) -> MergeMaps:
    """Runs a model on an image with and without merging, and records what is merged.

    The model runs in evaluation mode and is left as it was.

    Args:
        model: a segmentor, or another model whose backbone is of this package or was given a
            strategy by ``apply_token_merging``.
        image: (H, W, C) or (H, W) uint8; three channels are RGB.
        inputs: the image as the model takes it, (1, C, H, W); None calls ``to_inputs``.

    Raises:
        SegformerPlusPlusError: not such an image, or no strategy was applied to the model.
    """
    if image.ndim not in (2, 3) or image.dtype != np.uint8:
        raise SegformerPlusPlusError(
            f'image: expected (H, W, C) or (H, W) uint8, got {image.shape} {image.dtype}'
        )
    image = np.atleast_3d(image)
    if inputs is None:
        inputs = to_inputs(model, image)
    elif inputs.dim() != 4 or (1, *image.shape[:2]) != (len(inputs), *inputs.shape[2:]):
        raise SegformerPlusPlusError(
            f'inputs: expected (1, C, {image.shape[0]}, {image.shape[1]}) for this image, got '
            f'{tuple(inputs.shape)}'
        )
    if image.shape[2] != 3:  # what is drawn: the first three channels, or the only one in grey
        image = image[..., :3] if image.shape[2] > 3 else image[..., :1].repeat(3, axis=2)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            with record_plans(model) as records:
                labels = predict_labels(model, inputs)
            maps = tuple(
                MergeMap(r.stage, r.block, r.role, r.groups()[0].cpu().numpy(), r.plan.num_merged)
                for r in records
            )
            with without_merging(model):
                plain = None if labels is None else predict_labels(model, inputs)
    finally:
        for module in training:
            module.training = True
    if labels is None or plain is None:
        return MergeMaps(image, maps, None, None)
    return MergeMaps(image, maps, labels.cpu().numpy(), plain.cpu().numpy())
