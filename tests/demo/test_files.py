"""Files on the page: compared with the first as they predict by themselves."""

import re

import numpy as np
import pytest

pytest.importorskip('mmseg')

from segformer_plusplus.cli.demo import find_model
from segformer_plusplus.demo import open_comparer, words
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.export import export_model
from segformer_plusplus.inference import PoseEstimator, Segmenter, open_model

from .conftest import large_pixels

AS_THEY_ARE = {'test_dataloader.dataset.pipeline': [dict(type='PackSegInputs')]}
CLASSES = dict(class_names=['road', 'car', 'sky', 'tree', 'house'])


def write_file(model, path, **options):
    torch_export = dict(format='torch-export')
    export_model(open_model(*model, device='cpu'), path, **torch_export | options)
    return str(path)


@pytest.fixture(scope='module')
def files(segmentation, tmp_path_factory):
    """Two of one model; the second merges, and normalises by itself."""
    folder = tmp_path_factory.mktemp('files')
    shape = dict(CLASSES, shape=(64, 96))
    more = dict(token_merging='hq', output='labels', with_preprocessing=True)
    plain = write_file(segmentation, folder / 'plain.pt2', **shape)
    return plain, write_file(segmentation, folder / '<hq>.pt2', **shape, **more)


@pytest.fixture(scope='module')
def file_comparer(files):
    return open_comparer(*find_model(*files))


def test_both_predict_as_they_do_alone(file_comparer, files):
    alone = [Segmenter(each, cfg_options=AS_THEY_ARE) for each in files]
    for _ in range(20):  # one image in fifteen is of one class, merged or not
        image = large_pixels()
        old, new = (each.labels(np.ascontiguousarray(image[..., ::-1])) for each in alone)
        if (old != new).any():
            break
    assert (old != new).any()
    result = file_comparer(image, '<hq>.pt2')
    outcome, palette = result.outcome, alone[0].palette.astype(float)
    assert outcome.said == f'{(old != new).mean():.2%} of the pixels change their class'
    np.testing.assert_array_equal((outcome.changed == (255, 40, 40)).all(axis=-1), old != new)
    for shown, labels in ((outcome.unmerged, old), (outcome.merged, new)):
        assert np.abs(shown - np.rint(0.5 * image + 0.5 * palette[labels])).max() <= 1
    assert result.seconds > 0 and result.seconds_unmerged > 0 and result.stages == ()
    assert list(file_comparer.presets) == ['plain.pt2', '<hq>.pt2']
    assert file_comparer.first == '<hq>.pt2'


def test_what_is_said_of_files(file_comparer, picture):
    result = file_comparer(file_comparer.read(picture).image, '<hq>.pt2')
    found = words.summary(result, '', file_comparer)
    assert '&lt;hq&gt;.pt2</b> at 128 x 96 pixels is ' in found and ' plain.pt2' in found
    assert 'of the pixels change their class' in found and 'merging' not in found
    itself = file_comparer(file_comparer.read(picture).image, 'plain.pt2')
    assert 'compared with itself, so that both' in words.summary(itself, '', file_comparer)
    assert len(re.findall('<th scope', words.details(itself, file_comparer))) == 1
    about = file_comparer.presets['<hq>.pt2']
    assert about == '5 channels of labels, torch-export, fp32, 64x96, token merging: hq'
    assert words.strategy(file_comparer.explain('<hq>.pt2')) == ''
    with pytest.raises(SegformerPlusPlusError, match="'hq' is none of the files plain.pt2, <hq>"):
        file_comparer.explain('hq')
    assert '`plain.pt2`' in words.intro('', 'plain.pt2', file_comparer)


def test_one_file_and_a_file_of_a_config(files, segmentation):
    alone = open_comparer(*find_model(files[0], None))
    assert list(alone.presets) == ['plain.pt2'] == [alone.first] == [alone.baseline]
    beside = open_comparer(*find_model(str(segmentation[0]), files[0]))
    assert list(beside.presets) == ['plain.pt2']


def test_files_of_one_name(files, segmentation, tmp_path):
    other = write_file(segmentation, tmp_path / 'plain.pt2', shape=(64, 96), **CLASSES)
    assert list(open_comparer(*find_model(files[0], other)).presets) == [files[0], other]


@pytest.mark.parametrize(
    ('second', 'message'),
    [
        ('weights.pth', 'weights.pth is no exported file: beside .*plain.pt2, give another one'),
        ('pose.pt2', 'plain.pt2 is for mmseg, .*pose.pt2 for mmpose'),
        ('names.pt2', 'plain.pt2 and names.pt2 have not the same classes'),
        ('gone.pt2', 'exported model not found: '),
    ],
)
def test_files_that_cannot_be_compared(files, segmentation, pose, tmp_path, second, message):
    if second == 'names.pt2':
        write_file(segmentation, tmp_path / second, shape=(64, 96), class_names=list('abcde'))
    if second == 'pose.pt2':
        write_file(pose, tmp_path / second)
    with pytest.raises(SegformerPlusPlusError, match=message):
        open_comparer(*find_model(files[0], str(tmp_path / second)))


def test_keypoints_of_files(pose, picture, tmp_path):
    files = [write_file(pose, tmp_path / 'a.pt2')]
    files += [write_file(pose, tmp_path / 'b.pt2', token_merging='fast', with_preprocessing=True)]
    comparer = open_comparer(*find_model(*files))
    image = comparer.read(picture).image
    bgr = np.ascontiguousarray(image[..., ::-1])
    points = [np.asarray(PoseEstimator(each)(bgr).pred_instances.keypoints)[0] for each in files]
    moved = np.linalg.norm(points[1] - points[0], axis=-1)
    result = comparer(image, 'b.pt2')
    assert f'move by {moved.mean():.2f} pixels' in result.outcome.said
    assert result.outcome.legend[0].value == f'{moved.max():.1f} px'
