"""Stop a training whose loss or weights are no numbers any more."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..errors import DivergedError


@HOOKS.register_module()
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
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Look at every loss of the iteration."""
        every = {k: _number(v) for k, v in (outputs or {}).items() if 'loss' in k}
        losses = {k: v for k, v in every.items() if v is not None}
        broken = {name: value for name, value in losses.items() if not math.isfinite(value)}
        if not broken:
            return
        iteration = runner.iter + 1
        rank = get_rank()
        name = f'nan_batch_iter_{iteration}{f"_rank_{rank}" if rank else ""}.json'
        path = Path(runner.work_dir) / name
        content = dict(
            iteration=iteration,
            losses={key: str(value) for key, value in losses.items()},
            images=image_paths(data_batch),
        )
        path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
        raise DivergedError(
            f'iteration {iteration}: {", ".join(f"{k} is {v}" for k, v in broken.items())}; the '
            f'images of its batch stand in {path}; a lower learning rate, '
            'optim_wrapper.clip_grad=dict(max_norm=1.0) or bfloat16 in place of float16 may help'
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuse to save weights that nobody could go on from."""
        for name, tensor in checkpoint.get('state_dict', {}).items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise DivergedError(
                    f'iteration {runner.iter + 1}: {name} has values that are NaN or infinite; no '
                    'checkpoint is written, the one before is the one to go on from; a lower '
                    'learning rate or optim_wrapper.clip_grad=dict(max_norm=1.0) may help'
                )


def image_paths(batch: Any) -> list[str]:
    """The files that a batch of mmseg or mmpose was made of."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    paths = [getattr(sample, 'metainfo', {}).get('img_path') for sample in samples or []]
    return [str(path) for path in paths if path is not None]


def _number(value: Any) -> float | None:
    if torch.is_tensor(value):
        return float(value.detach()) if value.numel() == 1 else None
    return float(value) if isinstance(value, int | float) else None
