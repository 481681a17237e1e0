"""Independent ways to the same numbers: the toolboxes' own tests, and plain NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config


def run_test(config: Path, checkpoint: Path, token_merging: str, work_dir: Path, **changes: Any):
    """Does what tools/test.py does; returns metrics, and the data samples it was given."""
    from segformer_plusplus.training.runner import StrictRunner

    cfg = Config.fromfile(str(config))
    cfg.merge_from_dict(changes)
    cfg.model.backbone.token_merging = token_merging
    cfg.work_dir, cfg.load_from = str(work_dir), str(checkpoint)
    runner = StrictRunner.from_cfg(cfg)
    metrics = runner.test()
    runner.model.eval()
    samples: list[Any] = []
    with torch.inference_mode():
        for batch in runner.test_dataloader:
            samples += runner.model.test_step(batch)
    return metrics, samples


def distances_to_border(mask: np.ndarray) -> np.ndarray:
    """Returns the distance of every set pixel (H, W) to the nearest one that is not set."""
    outside = np.argwhere(~mask)
    result = np.full(mask.shape, np.inf)
    for row, column in np.argwhere(mask):
        if len(outside):
            result[row, column] = np.sqrt(((outside - (row, column)) ** 2).sum(axis=1).min())
    return result
