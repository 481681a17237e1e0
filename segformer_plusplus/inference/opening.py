"""Opens models that are ready to predict, with weights that fit completely or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn

from ..checkpoints import load_checkpoint_strictly
from ..errors import SegformerPlusPlusError, first_line
from ..export.formats import is_exported
from ..loading.datasets import test_dataset
from ..patching import apply_token_merging
from ..registration import component
from .configs import load_config
from .exported import use_exported
from .pretrained import own_weights

_STARTS = 'init_cfg', 'pretrained'

SEED = 0
"""Seeds random weights."""


def open_model(
    config_or_model: str | os.PathLike[str] | Config | nn.Module,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    scope: str | None = None,
    random_weights: bool = False,
    token_merging: Any = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> Any:
    """Builds and loads a model of OpenMMLab, or takes a model that is already built.

    Args:
        config_or_model: what ``configs.load_config`` takes, or a model of mmseg or mmpose.
        checkpoint: any file that ``segformer_plusplus.checkpoints.load_checkpoint_strictly``
            takes; every key has to fit. A model that is already built, or that brings its weights,
            may go without. Or an exported file, which then is the model, on the CPU; how images
            are read and prepared stays as the config says.
        scope: 'mmseg' or 'mmpose' if the config must be of this toolbox; None allows any.
        random_weights: initialise with ``SEED`` where there is no checkpoint. Nothing is
            downloaded: each ``init_cfg`` is left out.
        token_merging: a preset or strategy that replaces the model's.
        device: None takes CUDA if there is one, but leaves a model that is already built in place.
        dtype: of the parameters; None keeps it.
        cfg_options: dotted keys of the config and their new values.

    Returns:
        The model in eval mode. Its ``cfg`` is its config, and ``dataset_meta`` has the names and
        colours of what it predicts (from the checkpoint, else from the config's test set), as
        mmseg's and mmpose's own inference expects.

    Raises:
        SegformerPlusPlusError: no weights, the wrong toolbox, or options for a built model.
        CheckpointError: the checkpoint does not fit.
    """
    if isinstance(config_or_model, nn.Module):
        if cfg_options:
            raise SegformerPlusPlusError('cfg_options change a config, not a model that is built')
        model: Any = config_or_model
    else:
        config = load_config(config_or_model, cfg_options)
        checkpoint = checkpoint or own_weights(config)
        if checkpoint is not None and is_exported(checkpoint):
            return _open_exported(config, checkpoint, scope, token_merging, device, dtype)
        if checkpoint is None and not random_weights:
            raise SegformerPlusPlusError(
                'no checkpoint: a model of a config has random weights without one'
            )
        if random_weights:
            torch.manual_seed(SEED)
        if device is not None:
            check_device(str(device))
        model = _build(config, scope)
        device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        if checkpoint is None:
            with _without_log():
                model.init_weights()
    meta: Mapping[str, Any] = {}
    if checkpoint is not None:
        meta = load_checkpoint_strictly(model, str(checkpoint)).get('meta') or {}
    if not getattr(model, 'dataset_meta', None):
        model.dataset_meta = _dataset_meta(getattr(model, 'cfg', None), meta)
    if token_merging is not None:
        apply_token_merging(model, token_merging)
    return model.to(device=device, dtype=dtype).eval()


def _open_exported(
    config: Config,
    path: str | os.PathLike[str],
    scope: str | None,
    token_merging: Any,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    if torch.device(device or 'cpu').type != 'cpu':
        raise SegformerPlusPlusError(f'--device {device}: {path} runs on the CPU here')
    if dtype not in (None, torch.float32):
        raise SegformerPlusPlusError(
            f'{path} takes float32 images, not {dtype}; its precision is chosen when it is exported'
        )
    use_exported(config, path, token_merging)
    model: Any = _build(config, scope)
    model.dataset_meta = _dataset_meta(config, {})
    return model.eval()


def _build(config: Config, scope: str | None) -> nn.Module:
    found, model_cfg = config.get('default_scope'), config.get('model')
    if isinstance(model_cfg, Mapping) and scope not in (None, found):
        raise SegformerPlusPlusError(
            f'the config has default_scope {found!r}, expected a model of {scope!r}'
        )
    if not isinstance(model_cfg, Mapping) or 'type' not in model_cfg:
        raise SegformerPlusPlusError(
            f'{config.filename or "the config"} has no model to build; expected '
            "model = dict(type='...', ...)"
        )
    init_default_scope(found or 'mmengine')
    # not a plain dict: mmseg reads its test_cfg by attributes
    settings = ConfigDict(without_init_cfg(model_cfg), _scope_=found or 'mmengine')
    model: Any = revert_sync_batchnorm(MODELS.build(settings))
    model.cfg = config
    return model


def _dataset_meta(config: Config | None, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Reads names and colours from a checkpoint's meta data, else from a config's test set."""
    if meta.get('dataset_meta'):
        return dict(meta['dataset_meta'])
    if meta.get('CLASSES'):  # written by mmseg 0.x
        return {'classes': meta['CLASSES'], 'palette': meta.get('PALETTE')}
    dataset = test_dataset(config)
    kind = component(dataset.get('type'), DATASETS, config and config.get('default_scope'))
    given, known = dataset.get('metainfo') or {}, getattr(kind, 'METAINFO', {})
    # mmpose's data sets take the one or the other
    return dict(given) if given and 'from_file' in known else {**known, **given}


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Silences mmengine, which logs how each single parameter is initialised."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def without_init_cfg(config: Any) -> Any:
    """Copies a model's config without what names weights, so that building it downloads nothing."""
    if isinstance(config, Mapping):
        return {k: without_init_cfg(v) for k, v in config.items() if k not in _STARTS}
    if isinstance(config, list | tuple):
        return [without_init_cfg(item) for item in config]
    return config


def in_parts_of_one_size(step: Callable[[Any], Any], data: Any) -> Any:
    """Predicts a batch of images of several sizes, which mmseg refuses.

    Args:
        step: a model's ``test_step`` or ``val_step``.
        data: with 'inputs', a list of images (C, H, W), and others of as many entries; what is
            made in another way stays whole.

    Returns:
        The samples in their order; each is what it is in a batch of its own.
    """
    images = data.get('inputs') if isinstance(data, dict) else None
    if not isinstance(images, list | tuple):  # a tuple is a view of test-time augmentation
        return step(data)
    sizes = [getattr(image, 'shape', None) for image in images]
    samples = list(images)
    for size in dict.fromkeys(sizes):
        part = [index for index, each in enumerate(sizes) if each == size]
        same = {key: [values[index] for index in part] for key, values in data.items()}
        found = step(data if len(part) == len(sizes) else same)
        for index, sample in zip(part, found, strict=True):
            samples[index] = sample
    return samples


def device_of(model: nn.Module) -> torch.device:
    """Returns where a model is; an exported file, which has no parameters, is on the CPU."""
    first = next(model.parameters(), None)
    return torch.device('cpu') if first is None else first.device


def check_device(device: str) -> None:
    """Checks that PyTorch has this device, and that models run on it.

    Raises:
        SegformerPlusPlusError: PyTorch does not have the device, or does not know its name.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, OverflowError) as error:
        reason = first_line(error).partition('. ')[0]
        raise SegformerPlusPlusError(f'--device {device}: {reason}') from error
    if found.type == 'meta' or (found.type == 'cpu' and found.index):
        raise SegformerPlusPlusError(f'--device {device}: no model runs on it; use cpu')
