"""Writes what a segmentor predicts in a test, each file at the place of its image."""

from __future__ import annotations

import copy
import os
from collections import Counter
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from ..errors import SegformerPlusPlusError
from ..files import naming_the_file
from ..inference.labels import first_label
from ..inference.reader import Reader, visible
from ..inference.writing import save_mask
from ..loading.leave_out import absolute, leaves_of, relative


class SegmentationFilesHook(Hook):
    """Writes label maps, and pictures as mmseg's visualizer paints them.

    mmseg names them by the image alone, so that those of one name in two folders are one file.
    Here the folders below the data set's ``data_prefix`` are kept. As in mmseg, labels are numbered
    as in the data set's files: with ``reduce_zero_label``, class 0 is 1.

    Args:
        masks: folder of label maps; None for none.
        painted: folder of pictures; None for none.

    Raises:
        SegformerPlusPlusError: before the test: the config's visualizer does not paint.
    """

    def __init__(self, masks: str | None = None, painted: str | None = None) -> None:
        self._masks = masks
        self._painted = painted
        self._names: dict[str, str] = {}

    def before_test(self, runner: Runner) -> None:
        """Names the files."""
        if self._painted and type(runner.visualizer) is Visualizer:
            raise SegformerPlusPlusError(
                "--show-dir needs a visualizer of mmseg: visualizer=dict(type='SegLocalVisualizer')"
            )
        self._names = _file_names(runner.test_dataloader.dataset)
        self._reader = Reader(runner.cfg)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Writes the files of a batch."""
        for sample in outputs:
            name = f'{self._names[sample.img_path]}.png'
            if self._masks:
                labels = sample.pred_sem_seg.data[0].cpu().numpy()
                shift = int(bool(sample.get('reduce_zero_label')))
                save_mask(Path(self._masks, name), labels + shift)
            if self._painted:
                image = visible(self._reader.file(sample.img_path))[..., ::-1]
                place = os.path.join(self._painted, name)
                shown = _from_zero(sample, len(runner.visualizer.dataset_meta['classes']))
                with naming_the_file(Path(place)):
                    runner.visualizer.add_datasample(name, image, shown, out_file=place)


def _from_zero(sample: Any, classes: int) -> Any:
    """Counts the labels from 0, as mmseg's visualizer does also where 1 is the only class."""
    if not first_label(classes):
        return sample
    shown = copy.deepcopy(sample)
    for maps in (shown.get('pred_sem_seg'), shown.get('gt_sem_seg')):
        if maps is not None:
            maps.data = (maps.data - 1) % 256  # 0 becomes 255, which is no class
    return shown


def _file_names(dataset: Any) -> dict[str, str]:
    """Returns images by their paths, without a suffix where no other one has the same name."""
    leaves = list(leaves_of(dataset))
    folders = [
        absolute(leaf.data_prefix.get('img_path') or leaf.data_root or '') for leaf in leaves
    ]
    root = os.path.commonpath(folders)
    paths = {leaf.get_data_info(i)['img_path'] for leaf in leaves for i in range(len(leaf))}
    names = {path: relative(path, root).lstrip('/') for path in paths}
    stems = {path: os.path.splitext(name)[0] for path, name in names.items()}
    count = Counter(stems.values())
    return {path: stem if count[stem] == 1 else names[path] for path, stem in stems.items()}
