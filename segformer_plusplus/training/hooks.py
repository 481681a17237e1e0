"""Hooks for mmengine's Runner. All but the progress bar and the merge map come by themselves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from tqdm import tqdm

from ..errors import DivergedError, SegformerPlusPlusError
from ..files import write_json
from ..loading.images import skipping_steps
from .distributed import unwrap
from .randomness import seed_step


@HOOKS.register_module(force=True)
class StopOnNaN(Hook):
    """Stops at once when a loss is NaN or infinite, and says which images it came from.

    Their paths go to ``nan_batch_iter_N.json`` in the work dir. A checkpoint with such weights is
    never written, so that the latest one is always one to go on from. mmengine reads the loss in
    every iteration anyway: this costs no waiting for the device.

    Raises:
        DivergedError: names the iteration, the loss and the file with the paths.
    """

    priority = 'ABOVE_NORMAL'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Looks at every loss of the iteration."""
        named = {name: value for name, value in (outputs or {}).items() if 'loss' in name}
        losses = {name: torch.as_tensor(value).item() for name, value in named.items()}
        broken = {name: value for name, value in losses.items() if not math.isfinite(value)}
        if not broken:
            return
        iteration, rank = runner.iter + 1, get_rank()
        name = f'nan_batch_iter_{iteration}{f"_rank_{rank}" if rank else ""}.json'
        path = Path(runner.work_dir) / name
        content = dict(
            iteration=iteration,
            losses={name: str(value) for name, value in losses.items()},
            images=_image_paths(data_batch),
        )
        write_json(path, content)
        raise DivergedError(
            f'iteration {iteration}: {", ".join(f"{k} is {v}" for k, v in broken.items())}; the '
            f'images of its batch stand in {path}; a lower learning rate, '
            'optim_wrapper.clip_grad=dict(max_norm=1.0) or bfloat16 in place of float16 may help'
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuses to save weights that nobody could go on from."""
        for name, tensor in checkpoint.get('state_dict', {}).items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise DivergedError(
                    f'iteration {runner.iter + 1}: {name} has values that are NaN or infinite; no '
                    'checkpoint is written, the one before is the one to go on from; a lower '
                    'learning rate or optim_wrapper.clip_grad=dict(max_norm=1.0) may help'
                )


def _image_paths(batch: Any) -> list[str]:
    """Lists the files that a batch of mmseg or mmpose was made of."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    paths = [getattr(sample, 'metainfo', {}).get('img_path') for sample in samples or []]
    return [str(path) for path in paths if path is not None]


@HOOKS.register_module(force=True)
class ProgressBarHook(Hook):
    """Shows one progress bar over the whole training, with the loss and the time that is left."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def before_train(self, runner: Runner) -> None:
        """Opens the bar, where a resumed run stands."""
        if runner.rank == 0:
            self._bar = tqdm(
                total=runner.max_iters, initial=runner.iter, desc='Training', unit='it'
            )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Moves the bar on by one."""
        if self._bar is None:
            return
        if outputs and 'loss' in outputs:
            loss = torch.as_tensor(outputs['loss']).item()
            self._bar.set_postfix(loss=f'{loss:.4g}', refresh=False)
        self._bar.update()

    def after_train(self, runner: Runner) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()


@HOOKS.register_module(force=True)
class StepSeedHook(Hook):
    """Seeds Python, NumPy and PyTorch before every step with the run's seed and the iteration.

    mmengine seeds them once, and a resumed run draws other numbers for dropout and drop path than
    an undisturbed one. All processes have one seed, unless ``randomness.diff_rank_seed`` says
    otherwise, as in mmengine.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seeds the step that follows."""
        seed_step(runner.seed, runner.iter)


@HOOKS.register_module(force=True)
class SkippedSamplesHook(Hook):
    """Logs after every epoch, or training by iterations, what ``on_error='skip'`` left out."""

    priority = 'LOW'

    def __init__(self) -> None:
        self._before = 0

    def after_train_epoch(self, runner: Runner) -> None:
        """Logs the count of all processes, if it has grown."""
        steps = list(skipping_steps(runner.train_dataloader.dataset))
        if not steps:
            return
        count = torch.tensor(sum(step.skips.count for step in steps))
        all_reduce(count)
        if int(count) > self._before:
            runner.logger.warning(
                f'iteration {runner.iter}: {int(count) - self._before} samples of damaged files '
                'were skipped since the last epoch; the lines above name each file'
            )
            self._before = int(count)


@HOOKS.register_module(force=True)
class MergeMapHook(Hook):
    """Draws merge maps of the first images of a validation for the visualizer's backends.

    It also logs scalars ``merge_map_0/...``: the tokens left in every stage, the share merged away,
    and the share of the pixels whose label merging changes. Every image costs two more runs of the
    model.

    Args:
        interval: every how many validations.
        images: how many of the first images.
        block: which block of every stage, from 1; -1 is the last.

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
        """Raises at once if the model's backbone does not merge tokens."""
        from ..inference.merge_maps import the_backbone

        the_backbone(unwrap(runner.model)).attentions()

    def before_val_epoch(self, runner: Runner) -> None:
        """Counts the validation."""
        self._validations += 1
        self._drawn = 0

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draws the images that are still missing in this validation."""
        if runner.rank != 0 or (self._validations - 1) % self.interval:
            return
        # only now: this module is imported for its hooks by those who never draw
        from ..inference.drawing import draw
        from ..inference.merge_maps import merge_map, turned

        palette = (getattr(runner.visualizer, 'dataset_meta', None) or {}).get('palette')
        for pixels in data_batch['inputs'][: self.images - self._drawn]:
            image = np.ascontiguousarray(turned(pixels.permute(1, 2, 0).cpu().numpy()))
            maps = merge_map(unwrap(runner.model), image)
            picture = draw(maps, block=self.block, palette=palette)
            # no slash: the local backend makes no folders, and does not say that it wrote nothing
            name = f'merge_map_{self._drawn}'
            scalars: dict[str, float] = {}
            for stage in range(1, maps.num_stages + 1):
                for each in maps.of_stage(stage, self.block):
                    scalars[f'{name}/stage{stage}_{each.role}_tokens'] = each.num_merged
                    scalars[f'{name}/stage{stage}_{each.role}_share_merged'] = each.share_merged
            if maps.share_changed is not None:
                scalars[f'{name}/share_changed'] = maps.share_changed
            runner.visualizer.add_image(name, np.asarray(picture), step=runner.iter)
            runner.visualizer.add_scalars(scalars, step=runner.iter)
            self._drawn += 1
