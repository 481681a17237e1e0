"""Building the models that a benchmark compares, with equal weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ..checkpoints import load_checkpoint_strictly

SEED = 0
"""Of the random weights."""


def build_model(
    model: Mapping[str, Any],
    scope: str = 'mmseg',
    checkpoint: str | None = None,
    device: str = 'cpu',
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The model in eval mode, with the checkpoint's weights or seeded random ones.

    Args:
        model: its config; its ``init_cfg`` are left out, so that nothing is downloaded.
        scope: the registry that its types are looked up in.
        checkpoint: loaded strictly.
        device: where it runs.
        dtype: of its parameters.
    """
    init_default_scope(scope)
    torch.manual_seed(SEED)
    built = revert_sync_batchnorm(MODELS.build(dict(without_init_cfg(model), _scope_=scope)))
    if checkpoint:
        load_checkpoint_strictly(built, checkpoint)
    else:
        built.init_weights()
    return built.to(device=device, dtype=dtype).eval()


def share_weights(models: Mapping[str, nn.Module]) -> None:
    """Give all models that have the same parameters those of the first."""
    first, *others = models.values()
    state = first.state_dict()
    shapes = {key: value.shape for key, value in state.items()}
    for model in others:
        if {key: value.shape for key, value in model.state_dict().items()} == shapes:
            model.load_state_dict(state, strict=True)


def without_init_cfg(config: Any) -> Any:
    """A model's config that downloads nothing when it is built."""
    if isinstance(config, Mapping):
        return {k: without_init_cfg(v) for k, v in config.items() if k != 'init_cfg'}
    if isinstance(config, list | tuple):
        return [without_init_cfg(item) for item in config]
    return config
