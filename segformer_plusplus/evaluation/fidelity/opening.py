"""Opens the fidelity of a config and its checkpoint: the toolbox, and the images to measure on."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter
from mmengine.config import Config
from torch.utils.data import Dataset

from ...errors import SegformerPlusPlusError
from ...inference.configs import check_codec_sizes, check_data_roots, load_config
from ...inference.opening import device_of
from ...inference.reader import Reader
from ...inference.sources import Picture, find_pictures
from ...registration import component_name
from .base import Fidelity, Source

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

    def count(self, there: int) -> int:
        """Returns how many of the images there are to measure on.

        Raises:
            SegformerPlusPlusError: the limit is more than there are.
        """
        if self.limit is not None and self.limit > there:
            where = 'the test set' if self.images is None else self.images
            raise SegformerPlusPlusError(
                f'limit={self.limit}: give a number from 1 to {there}, which {where} holds'
            )
        return self.limit or there


def open_fidelity(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    cfg_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Fidelity[Any]:
    """Loads a model, to measure on it what presets cost and gain.

        fidelity = open_fidelity('configs/...py', 'weights.pth', limit=20)
        fidelity.measure('hq')  # {'mIoU': ..., 'mIoU_fine': ..., 'changed': ...}

    Args:
        config: of mmseg or mmpose; the backbone may be this package's or mmseg's.
        checkpoint: its weights, of any library that the package reads; loaded strictly. None for a
            model that brings them.
        cfg_options: dotted keys of the config and their new values.
        options: the fields of ``Options``.

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


def build_test_set(cfg: Config, registry: Any) -> Any:
    """Builds the data set that the config tests on, whether it has labels or not.

    Raises:
        SegformerPlusPlusError: it is not configured, missing, no JSON, or empty.
    """
    if not cfg.get('test_dataloader'):
        raise SegformerPlusPlusError(
            'the config has no test_dataloader to measure on; name a folder of images (--images)'
        )
    check_codec_sizes(cfg)
    check_data_roots(cfg, ['test'], labels=False)
    settings = cfg.test_dataloader.dataset
    if 'pretrained_model' in cfg and not settings.get('data_root'):
        raise SegformerPlusPlusError(
            f'{cfg.pretrained_model.name} brings no test set; name a folder of images (--images), '
            'or give a config with its data, and this name as its CHECKPOINT'
        )
    ann_file = f'ann_file={settings.get("ann_file", "")!r}'
    empty = SegformerPlusPlusError(
        f'the test set of the config is empty: {component_name(settings.get("type"))} finds '
        'nothing in '
        f'data_root={settings.get("data_root")!r}, data_prefix={settings.get("data_prefix")!r}, '
        f'{ann_file} (test_dataloader.dataset)'
    )
    try:
        data = registry.build(settings)
    except json.JSONDecodeError as error:
        raise SegformerPlusPlusError(
            f'{ann_file} of the test set (test_dataloader.dataset) is no JSON: {error}'
        ) from error
    except ValueError as error:
        # how mmengine says that a list is empty which it packs
        if 'need at least one array to concatenate' not in str(error):
            raise
        raise empty from error
    if not len(data):
        raise empty
    return data


def source_of_test_set(cfg: Config, data: Any, count: int, model: Any) -> Source:
    """Returns the data in the batches of the config's loader, whose test has the same numbers.

    The loader's workers are used where the model leaves them the CPU.
    """
    loader = cfg.test_dataloader
    on_cpu = device_of(model).type == 'cpu'
    workers = 0 if on_cpu else loader.get('num_workers', 0)
    return Source(data, count, loader.get('batch_size', 1), workers)


def find_images(options: Options, cfg: Config) -> list[Picture]:
    """Returns the first images of the folder, as many as the limit, read as in the config.

    Raises:
        SegformerPlusPlusError: there is nothing, a video, or less than the limit.
    """
    pictures = []
    found = find_pictures(str(options.images), reader=Reader(cfg))
    for picture in itertools.islice(found, options.limit):
        if picture.video is not None:
            raise SegformerPlusPlusError(
                f'{picture.video} is a video; measure on images, for example its frames'
            )
        pictures.append(picture)
    options.count(len(pictures))
    return pictures


class Pictures(Dataset[dict[str, Any]]):
    """Makes a data set of pictures, which are read one by one.

    ``prepare`` turns name and image (H, W, 3) into 'inputs' and 'data_samples'.
    """

    def __init__(
        self, pictures: Sequence[Picture], prepare: Callable[[str, np.ndarray], dict[str, Any]]
    ) -> None:
        self._pictures = pictures
        self._prepare = prepare

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture = self._pictures[index]
        return self._prepare(picture.name, picture.load())
