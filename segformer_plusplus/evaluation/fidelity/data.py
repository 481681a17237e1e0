"""What is measured on: the test set of a config, or a folder of images."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.config import Config
from torch.utils.data import Dataset

from ...errors import SegformerPlusPlusError
from ...inference.configs import check_codec_sizes, check_data_roots
from ...inference.sources import Picture, find_pictures

Prepare = Callable[[str, np.ndarray], dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """Prepared images.

    Attributes:
        data: 'inputs' and 'data_samples' of each, as the test pipeline packs them.
        count: the first so many are measured on.
        batch_size: images, or people, in one forward pass.
        workers: processes that load.
    """

    data: Any
    count: int
    batch_size: int = 1
    workers: int = 0

    @classmethod
    def of_loader(cls, data: Any, count: int, loader: Mapping[str, Any], model: Any) -> Source:
        """With the batches of a config's data loader, so that the numbers are those of its test.

        Its workers are used where the model leaves them the CPU.
        """
        on_cpu = next(model.parameters()).device.type == 'cpu'
        workers = 0 if on_cpu else loader.get('num_workers', 0)
        return cls(data, count, loader.get('batch_size', 1), workers)


class Pictures(Dataset[dict[str, Any]]):
    """Images without labels, as a data set.

    Args:
        pictures: to be read one by one.
        prepare: name and image (H, W, 3) -> 'inputs' and 'data_samples'.
    """

    def __init__(self, pictures: Sequence[Picture], prepare: Prepare) -> None:
        self._pictures = pictures
        self._prepare = prepare

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture = self._pictures[index]
        return self._prepare(picture.name, picture.load())


def build_test_set(cfg: Config, registry: Any) -> Any:
    """The data set that the config tests on, whether its labels are there or not.

    Args:
        cfg: of mmseg or mmpose.
        registry: of the toolbox's data sets.

    Raises:
        SegformerPlusPlusError: the config has none, its files are missing or no JSON, or it is
            empty.
    """
    if not cfg.get('test_dataloader'):
        raise SegformerPlusPlusError(
            'the config has no test_dataloader to measure on; name a folder of images (--images)'
        )
    check_codec_sizes(cfg)
    check_data_roots(cfg, ['test'], labels=False)
    settings = cfg.test_dataloader.dataset
    empty = SegformerPlusPlusError(
        f'the test set of the config is empty: {settings.get("type")} finds nothing in '
        f'data_root={settings.get("data_root")!r}, data_prefix={settings.get("data_prefix")!r}, '
        f'ann_file={settings.get("ann_file", "")!r} (test_dataloader.dataset)'
    )
    try:
        data = registry.build(settings)
    except json.JSONDecodeError as error:
        raise SegformerPlusPlusError(
            f'ann_file={settings.get("ann_file", "")!r} of the test set '
            f'(test_dataloader.dataset) is no JSON: {error}'
        ) from error
    except ValueError as error:
        # how mmengine says that a list is empty which it packs
        if 'need at least one array to concatenate' not in str(error):
            raise
        raise empty from error
    if not len(data):
        raise empty
    return data


def find_images(path: str | os.PathLike[str], limit: int | None) -> list[Picture]:
    """The images of a folder, or one.

    Args:
        path: of them.
        limit: no more than these.

    Raises:
        SegformerPlusPlusError: there is nothing, or a video.
    """
    pictures = []
    for picture in itertools.islice(find_pictures(path), limit):
        if picture.video is not None:
            raise SegformerPlusPlusError(
                f'{picture.video} is a video; measure on images, for example its frames'
            )
        pictures.append(picture)
    return pictures


def check_limit(limit: int | None, count: int, where: str) -> int:
    """How many to measure on.

    Args:
        limit: None for all.
        count: that there are.
        where: they are.

    Raises:
        SegformerPlusPlusError: less than one, or more than there are.
    """
    if limit is None:
        return count
    if not 1 <= limit <= count:
        raise SegformerPlusPlusError(
            f'limit={limit}: give a number from 1 to {count}, which {where} holds'
        )
    return limit
