"""Opens the fidelity of a config and its checkpoint, whichever toolbox they are of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from mmengine.config import Config

from ...errors import SegformerPlusPlusError
from ...inference.configs import load_config
from .base import Fidelity

# each needs its toolbox, but not the other's
_PARTS = {'mmseg': 'segmentation', 'mmpose': 'pose'}


@dataclass(frozen=True)
class Options:
    """What is measured on, and where.

    Attributes:
        images: folder (or file) of images without labels, in place of the config's test set (for
            pose, each is one person); only what merging changes is then measured.
        limit: measure on the first so many images (people) only.
        fine_classes: classes that 'mIoU fine' averages (default: those of which less than half
            lies farther than 10 pixels from their border in the ground truth).
        device: where to run (default: cuda if there is one).
        progress: show bars.
    """

    images: str | None = None
    limit: int | None = None
    fine_classes: Sequence[str] | None = None
    device: Literal['cpu', 'cuda'] | None = None
    progress: Annotated[bool, Parameter(negative_bool='no-', show_default=False)] = True

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise SegformerPlusPlusError(f'limit is {self.limit}; give 1 or more')


def open_fidelity(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str],
    *,
    cfg_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Fidelity[Any]:
    """Loads a model, to measure on it what presets cost and gain.

        fidelity = open_fidelity('configs/...py', 'weights.pth', limit=20)
        fidelity.measure('hq')  # {'mIoU': ..., 'mIoU_fine': ..., 'changed': ...}

    Args:
        config: of mmseg or mmpose; the backbone may be this package's or mmseg's.
        checkpoint: its weights, of any library that the package reads; loaded strictly.
        cfg_options: dotted keys of the config and their new values.
        options: the fields of :class:`Options`.

    Raises:
        SegformerPlusPlusError: another toolbox, no data, a limit beyond them, an unknown class.
        CheckpointError: the checkpoint does not fit.
        MissingDependencyError: the toolbox is not installed.
    """
    wanted = Options(**options)
    cfg = load_config(config, cfg_options)
    scope = cfg.get('default_scope')
    if scope not in _PARTS:
        raise SegformerPlusPlusError(
            f'the config has default_scope {scope!r}; expected one of {", ".join(_PARTS)}'
        )
    part = import_module(f'.{_PARTS[scope]}', __package__)
    opened: Fidelity[Any] = part.open_model(cfg, checkpoint, wanted)
    return opened
