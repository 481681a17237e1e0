"""Holds the CamVid dataset, as the repository of SegNet's tutorial has it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import mmengine.fileio as fileio
from mmseg.datasets.basesegdataset import BaseSegDataset
from mmseg.registry import DATASETS

from ..errors import SegformerPlusPlusError

_CLASSES = {
    'Sky': [128, 128, 128],
    'Building': [128, 0, 0],
    'Pole': [192, 192, 128],
    'Road': [128, 64, 128],
    'Pavement': [60, 40, 222],
    'Tree': [128, 128, 0],
    'SignSymbol': [192, 128, 128],
    'Fence': [64, 64, 128],
    'Car': [64, 0, 128],
    'Pedestrian': [64, 64, 0],
    'Bicyclist': [0, 128, 192],
}
_VOID = len(_CLASSES)
_SUFFIXES = '.png', '.jpg', '.jpeg'
_FIXED = 'ann_file', 'img_suffix', 'seg_map_suffix', 'reduce_zero_label'


@DATASETS.register_module(force=True)
class CamVidDataset(BaseSegDataset):
    """Reads CamVid: street photographs of 480x360 with 11 classes, and void, which is ignored.

    An image is a PNG or JPEG, its label map the PNG of the same name in the folder of labels. The
    classes are those of SegNet (Badrinarayanan et al., PAMI 2017), the photographs those of Brostow
    et al. (Pattern Recognition Letters 2009).

    Args:
        **kwargs: as in mmseg's ``BaseSegDataset``, but ``ann_file``, ``img_suffix``,
            ``seg_map_suffix`` and ``reduce_zero_label``, which CamVid says itself.

    Raises:
        SegformerPlusPlusError: one of these, or two images have the same name but for the suffix.
    """

    METAINFO: dict[str, Any] = dict(classes=tuple(_CLASSES), palette=[*_CLASSES.values()])

    def __init__(self, **kwargs: Any) -> None:
        for name in _FIXED:
            if kwargs.pop(name, None):
                raise SegformerPlusPlusError(
                    f'CamVidDataset takes no {name}: every PNG or JPEG below data_prefix.img_path '
                    'is an image, and its label map a PNG of the same name'
                )
        super().__init__(img_suffix='', seg_map_suffix='.png', **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int]:
        """Maps numbers of the label files to those of training: void is 255, which is ignored."""
        return {**(super().get_label_map(new_classes) or {}), _VOID: 255}

    def load_data_list(self) -> list[dict[str, Any]]:
        """Lists the images of the folder by name, each with its label map."""
        folder, labels = (self.data_prefix.get(key) for key in ('img_path', 'seg_map_path'))
        options = dict(list_dir=False, recursive=True, backend_args=self.backend_args)
        images: dict[str, str] = {}
        for name in sorted(fileio.list_dir_or_file(folder, **options)):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in _SUFFIXES:
                continue
            if stem in images:
                raise SegformerPlusPlusError(
                    f'{folder} has {images[stem]} and {name}, with one label map for both: '
                    'keep one of them'
                )
            images[stem] = name
        entries = []
        for stem, name in images.items():
            entry = dict(img_path=os.path.join(folder, name), seg_fields=[])
            if labels is not None:
                entry['seg_map_path'] = os.path.join(labels, f'{stem}{self.seg_map_suffix}')
            entry.update(label_map=self.label_map, reduce_zero_label=self.reduce_zero_label)
            entries.append(entry)
        return entries
