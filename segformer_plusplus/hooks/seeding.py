"""Every training step draws from its own seed, so that an interrupted run can go on exactly."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..randomness import seed_step


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Seeds Python, NumPy and PyTorch before every step with the run's seed and the iteration.

    mmengine seeds them once, and a resumed run draws other numbers for dropout and drop path than
    an undisturbed one. All processes have one seed, unless ``randomness.diff_rank_seed`` says
    otherwise, as in mmengine.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed for the step that follows."""
        seed_step(runner.seed, runner.iter)
