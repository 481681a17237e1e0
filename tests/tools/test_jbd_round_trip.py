"""The raw jumpers through the converter are the converted jumpers."""

import json

import numpy as np
import pytest

from tools.dataset_converters.jbd_conversion import convert_jbd
from tools.dataset_generators.layouts import write_jbd, write_jbd_raw

SETTINGS = dict(train=12, val=6, size=(180, 240), seed=3, progress=False)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp('jumpers')
    write_jbd(folder / 'drawn', **SETTINGS)
    write_jbd_raw(folder / 'raw', **SETTINGS)
    return folder


def read(root, split):
    content = json.loads((root / 'annotations' / f'{split}_jump.json').read_text())
    files = {image['id']: image for image in content['images']}
    people = {files[a['image_id']]['file_name']: a for a in content['annotations']}
    return content['categories'], people


@pytest.mark.parametrize('missing_box', ['skip', 'from-keypoints'])
def test_round_trip(folders, tmp_path, missing_box):
    report = convert_jbd(folders / 'raw', tmp_path, missing_box=missing_box, progress=False)
    for split in ('train', 'val'):
        categories, drawn = read(folders / 'drawn', split)
        converted_categories, converted = read(tmp_path, split)
        assert converted_categories == categories
        without_box = set(drawn) - set(converted)
        assert len(without_box) == (1 if missing_box == 'skip' else 0)
        assert report[split].skipped_without_box == len(without_box)
        for name, person in converted.items():
            ours = np.reshape(person['keypoints'], (-1, 3))
            truth = np.reshape(drawn[name]['keypoints'], (-1, 3))
            seen = truth[:, 2] > 0
            np.testing.assert_array_equal(ours[:, 2] > 0, seen)
            np.testing.assert_allclose(ours[seen, :2], truth[seen, :2])
            frame = f'images/{split}/{name}'
            assert (tmp_path / frame).read_bytes() == (folders / 'drawn' / frame).read_bytes()
        same_box = [np.allclose(converted[n]['bbox'], drawn[n]['bbox']) for n in converted]
        assert sum(same_box) >= len(drawn) - 1  # one in ten has none in the raw data
