"""Say how many damaged files a training has left out."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..transforms import skipping_steps


@HOOKS.register_module()
class SkippedSamplesHook(Hook):
    """Logs after every epoch, or training by iterations, what ``on_error='skip'`` left out."""

    priority = 'LOW'

    def __init__(self) -> None:
        self._before = 0

    def before_train(self, runner: Runner) -> None:
        """Count from here."""
        self._before = 0

    def after_train_epoch(self, runner: Runner) -> None:
        """Log the count of all processes, if it has grown."""
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
