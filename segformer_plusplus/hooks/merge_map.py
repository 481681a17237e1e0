"""A hook that shows in training what is merged: a picture, and how many tokens are left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..errors import SegformerPlusPlusError

if TYPE_CHECKING:
    from ..visualization import MergeMaps


@HOOKS.register_module()
class MergeMapHook(Hook):
    """Draws merge maps of the first images of a validation for the visualizer's backends.

    Also notes for every stage the tokens that are left and the share merged away, and the share of
    the pixels whose label merging changes, as scalars ``merge_map_0/...``. Every image costs two
    more runs of the model.

    Args:
        interval: every how many validations.
        images: how many of the first images.
        block: which one of every stage, from 1; -1 is the last.

    Raises:
        SegformerPlusPlusError: a number that is not positive.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 1, images: int = 1, block: int = -1) -> None:
        for name, value in dict(interval=interval, images=images).items():
            if not isinstance(value, int) or value < 1:
                raise SegformerPlusPlusError(
                    f'MergeMapHook: {name}={value!r} is not an integer >= 1'
                )
        self.interval = interval
        self.images = images
        self.block = block
        self._validations = 0
        self._drawn = 0

    def before_run(self, runner: Runner) -> None:
        """Raise at once if the model is none whose merging can be shown."""
        from ..engine.distributed import unwrap
        from ..visualization.recording import the_backbone

        the_backbone(unwrap(runner.model)).attentions()

    def before_val_epoch(self, runner: Runner) -> None:
        """Count the validation."""
        self._validations += 1
        self._drawn = 0

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw what is still missing of this validation."""
        if runner.rank != 0 or (self._validations - 1) % self.interval:
            return
        # only now: this package is imported for its hooks by those who never draw
        from ..engine.distributed import unwrap
        from ..visualization import draw, merge_map

        model = unwrap(runner.model)
        for pixels in data_batch['inputs'][: self.images - self._drawn]:
            image = np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()[..., ::-1])
            maps = merge_map(model, image)
            palette = (getattr(runner.visualizer, 'dataset_meta', None) or {}).get('palette')
            picture = draw(maps, block=self.block, palette=palette)
            # no slash: the local backend makes no folders, and does not say that it wrote nothing
            name = f'merge_map_{self._drawn}'
            runner.visualizer.add_image(name, np.asarray(picture), step=runner.iter)
            runner.visualizer.add_scalars(scalars(maps, name, self.block), step=runner.iter)
            self._drawn += 1


def scalars(maps: MergeMaps, name: str, block: int = -1) -> dict[str, float]:
    """Tokens left, share merged and share changed by what they are called in a log.

    Args:
        maps: of one image.
        name: put before each.
        block: as in :meth:`MergeMaps.of_stage`.
    """
    found: dict[str, float] = {}
    for stage in range(1, maps.num_stages + 1):
        for each in maps.of_stage(stage, block):
            where = f'{name}/stage{stage}_{each.role}'
            found[f'{where}_tokens'] = each.num_merged
            found[f'{where}_share_merged'] = each.share_merged
    if maps.share_changed is not None:
        found[f'{name}/share_changed'] = maps.share_changed
    return found
