"""Models that are ready to run: built from a config, with weights that fit whole or not at all."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ..checkpoints import load_checkpoint_strictly
from ..errors import SegformerPlusPlusError
from ..patching import apply_token_merging
from .configs import load_config

SEED = 0
"""Of the random weights."""


def prepare_model(
    config_or_model: str | os.PathLike[str] | Config | nn.Module,
    checkpoint: str | os.PathLike[str] | None,
    scope: str,
    token_merging: Any = None,
    device: str | torch.device | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, Config | None, dict[str, Any]]:
    """Build and load a model, or take one as it is.

    Args:
        config_or_model: config file, config, or a model of mmseg or mmpose.
        checkpoint: any file that :func:`~segformer_plusplus.checkpoints.load_checkpoint_strictly`
            takes; every key has to fit. None: the weights are those of the model.
        scope: 'mmseg' or 'mmpose'.
        token_merging: a strategy in place of the model's.
        device: None: CUDA if there is one, the CPU if not; for a model: where it is.
        cfg_options: dotted keys and their new values.

    Returns:
        The model in eval mode; its config, if it has one; the meta data in the checkpoint.

    Raises:
        SegformerPlusPlusError: a config without a checkpoint, of the other toolbox, or with
            options for a model that is built already.
        CheckpointError: the checkpoint does not fit.
    """
    if isinstance(config_or_model, nn.Module):
        if cfg_options:
            raise SegformerPlusPlusError('cfg_options change a config, not a model that is built')
        model = config_or_model
        config = getattr(model, 'cfg', None)
    else:
        config = read_config(config_or_model, cfg_options)
        if checkpoint is None:
            raise SegformerPlusPlusError(
                'no checkpoint: a model of a config has random weights without one'
            )
        model = _build(config, scope)
        device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    meta: dict[str, Any] = {}
    if checkpoint is not None:
        meta = load_checkpoint_strictly(model, str(checkpoint)).get('meta') or {}
    if token_merging is not None:
        apply_token_merging(model, token_merging)
    if device is not None:
        model.to(device)
    return model.eval(), config, meta


def dataset_meta(config: Config | None, meta: Mapping[str, Any], registry: Any) -> dict[str, Any]:
    """Names and colours of what is predicted, of the checkpoint before the config's.

    Args:
        config: of the model.
        meta: of the checkpoint; mmseg 0.x wrote 'CLASSES' and 'PALETTE'.
        registry: of datasets.
    """
    if meta.get('dataset_meta'):
        return dict(meta['dataset_meta'])
    if meta.get('CLASSES'):
        return {'classes': meta['CLASSES'], 'palette': meta.get('PALETTE')}
    dataset = test_dataset(config)
    kind = registry.get(str(dataset.get('type'))) if dataset.get('type') else None
    return {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}


def test_dataset(config: Config | None) -> Mapping[str, Any]:
    """The innermost data set that the config tests on; empty without one."""
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {} if config else {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def read_config(config: Any, cfg_options: Mapping[str, Any] | None = None) -> Config:
    """The config of a file, or a copy of one, with its options.

    Raises:
        SegformerPlusPlusError: see :func:`~.configs.load_config`; neither a path nor a config.
    """
    if isinstance(config, str | os.PathLike):
        return load_config(config, cfg_options)
    if not isinstance(config, Config):
        raise SegformerPlusPlusError(
            f'config_or_model is a {type(config).__name__}; give the path of a config, a Config or '
            'a model'
        )
    config = copy.deepcopy(config)
    if cfg_options:
        config.merge_from_dict(dict(cfg_options))
    return config


def _build(config: Config, scope: str) -> nn.Module:
    found = config.get('default_scope')
    if found != scope or 'model' not in config:
        what = f'default_scope {found!r}' if 'model' in config else 'no model'
        raise SegformerPlusPlusError(f'the config has {what}, expected a model of {scope!r}')
    return _instantiate(config.model, scope)


def _instantiate(model: Mapping[str, Any], scope: str) -> nn.Module:
    init_default_scope(scope)
    # not a plain dict: mmseg reads its test_cfg by attributes
    settings = ConfigDict(without_init_cfg(model), _scope_=scope)
    return revert_sync_batchnorm(MODELS.build(settings))


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
    torch.manual_seed(SEED)
    built: Any = _instantiate(model, scope)
    if checkpoint:
        load_checkpoint_strictly(built, checkpoint)
    else:
        with _without_log():
            built.init_weights()
    return built.to(device=device, dtype=dtype).eval()


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """mmengine logs how each single parameter was initialised."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


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


def check_device(device: str) -> None:
    """Checks that PyTorch has this device.

    Raises:
        SegformerPlusPlusError: it has not, or there is none of that name.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SegformerPlusPlusError(f'--device {device}: {reason}') from error
