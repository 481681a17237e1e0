"""A fidelity of a config and its checkpoint, whichever toolbox they are of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from mmengine.config import Config

from ...errors import SegformerPlusPlusError
from ...inference.opening import read_config
from .base import Fidelity

# each needs its toolbox, but not the other's
_PARTS = {'mmseg': 'segmentation', 'mmpose': 'pose'}


@dataclass(frozen=True)
class Settings:
    """What :func:`open_fidelity` takes beside the model."""

    device: str | None = None
    images: str | os.PathLike[str] | None = None
    limit: int | None = None
    fine_classes: tuple[str, ...] | None = None
    progress: bool = True


def open_fidelity(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str],
    *,
    device: str | None = None,
    images: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    fine_classes: Sequence[str] | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Fidelity[Any]:
    """Load a model, to measure on it what strategies cost and gain.

        fidelity = open_fidelity('configs/...py', 'weights.pth')
        fidelity.measure('hq')  # {'mIoU': ..., 'mIoU_fine': ..., 'changed': ...}

    Args:
        config: of mmseg or mmpose; the backbone may be this package's or mmseg's.
        checkpoint: its weights, of any library that the package reads; loaded strictly.
        device: None: CUDA if there is one.
        images: a folder (or a file) of images without labels, in place of the config's test set;
            for pose, each is one person. There is then no accuracy.
        limit: the first so many images (people, for pose) only.
        fine_classes: names of the classes that 'mIoU_fine' averages; by default those that the
            ground truth shows to be thin or small.
        cfg_options: dotted keys of the config and their new values.
        progress: show bars.

    Raises:
        SegformerPlusPlusError: another toolbox, no data, a limit beyond them, an unknown class.
        CheckpointError: the checkpoint does not fit.
        MissingDependencyError: the toolbox is not installed.
    """
    if limit is not None and limit < 1:
        raise SegformerPlusPlusError(f'limit is {limit}; give 1 or more')
    cfg = read_config(config, cfg_options)
    scope = cfg.get('default_scope')
    if scope not in _PARTS:
        raise SegformerPlusPlusError(
            f'the config has default_scope {scope!r}; expected one of {", ".join(_PARTS)}'
        )
    classes = None if fine_classes is None else tuple(fine_classes)
    settings = Settings(device, images, limit, classes, progress)
    part = import_module(f'.{_PARTS[scope]}', __package__)
    opened: Fidelity[Any] = part.open_model(cfg, checkpoint, settings)
    return opened
