"""Reads the images that an export is calibrated on, as its graph takes them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from .. import inference
from ..errors import SegformerPlusPlusError
from ..export.graph import as_raw, normalise
from ..inference.sources import count_pictures, find_pictures

MOST_IMAGES = 50
"""Is how many images of a folder are read, evenly spaced; more change nothing."""


def read_images(model: Any, folder: Path, shape: tuple[int, int], raw: bool) -> list[Tensor]:
    """Reads images by the test pipeline of a model, and resizes each to one shape.

    A pose estimator takes every image for one person. What cannot be read is named and skipped.

    Args:
        model: a segmentor or pose estimator with its config.
        folder: of images like those that the model will see.
        shape: height and width.
        raw: give (1, H, W, C) uint8, three channels in RGB order, and not (1, C, H, W) normalised.

    Raises:
        SegformerPlusPlusError: no such folder, or one without images.
    """
    if not folder.is_dir():
        raise SegformerPlusPlusError(
            f'--calibrate {folder} is no folder; name one of images like those that the model '
            'will see'
        )
    images = [as_raw(image, shape) for image in _prepared(model, folder)]
    return images if raw else [normalise(model, each) for each in images]


def _prepared(model: Any, folder: Path) -> Iterator[Tensor]:
    """Yields images (C, H', W') in the order of channels of files, as the pipeline makes them."""
    poses = not hasattr(model, 'decode_head')
    if poses:  # which alone need mmpose
        from ..inference.pose import whole_image
    predictor: Any = (inference.PoseEstimator if poses else inference.Segmenter)(model)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    step = -(-(count_pictures(folder) or 1) // MOST_IMAGES)
    pictures = find_pictures(folder, reader=predictor.reader)
    for picture in islice(pictures, 0, MOST_IMAGES * step, step):
        try:
            image = picture.load()
            person = (whole_image(image)[0],) if poses else ()
            yield predictor.prepare(picture.name, image, *person)['inputs']
        except (SegformerPlusPlusError, OSError) as error:
            console.print(f'--calibrate: skipped {error}', markup=False)
