"""A progress bar over the whole training."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from tqdm import tqdm


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """One progress bar over the whole training, with the loss and the time that is left."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def before_train(self, runner: Runner) -> None:
        """Open the bar, where a resumed run stands."""
        if runner.rank == 0:
            self._bar = tqdm(
                total=runner.max_iters, initial=runner.iter, desc='Training', unit='it'
            )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Move the bar on by one."""
        if self._bar is None:
            return
        if outputs and 'loss' in outputs:
            loss = torch.as_tensor(outputs['loss']).item()
            self._bar.set_postfix(loss=f'{loss:.4g}', refresh=False)
        self._bar.update()

    def after_train(self, runner: Runner) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
