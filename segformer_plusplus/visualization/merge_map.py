"""Which tokens of an image a model merges, and what that changes about its prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import SegformerPlusPlusError
from .prediction import predict_labels, to_inputs
from .recording import PlanRecord, Role, record_plans, without_merging


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
