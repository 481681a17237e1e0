"""The check of segmentation data: one damage at a time, and the exact finding."""

import shutil

import pytest

pytest.importorskip('mmseg')

import numpy as np
from mmengine.config import Config
from PIL import Image

from segformer_plusplus.errors import SegformerPlusPlusError
from tools.dataset_checks import inspection
from tools.dataset_checks.inspection import inspect_data
from tools.dataset_generators.layouts import write_ade20k, write_cityscapes

STEM = 'ashford/ashford_000000_000019'
IMAGE = f'leftImg8bit/train/{STEM}_leftImg8bit.png'
LABEL = f'gtFine/train/{STEM}_gtFine_labelTrainIds.png'
SECOND = 'leftImg8bit/train/birkstadt/birkstadt_000000_000019_leftImg8bit.png'
VAL = 'leftImg8bit/val/elmburg/elmburg_000000_000019_leftImg8bit.png'
STEPS = [
    dict(type='CheckedLoadImageFromFile'),
    dict(type='CheckedLoadAnnotations', num_classes=19),
    dict(type='PackSegInputs'),
]


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes') / 'data'
    write_cityscapes(folder, train=4, val=2, size=(64, 128), progress=False)
    return folder


@pytest.fixture
def data(scenes, tmp_path):
    """A copy to damage."""
    return shutil.copytree(scenes, tmp_path / 'data')


def cityscapes(data, split='train', **more):
    prefix = dict(img_path=f'leftImg8bit/{split}', seg_map_path=f'gtFine/{split}')
    dataset = dict(type='CityscapesDataset', data_root=str(data), data_prefix=prefix)
    return {**dataset, 'pipeline': STEPS, **more}


def config(train, val=None, test=None):
    loaders = {'train': train, 'val': val, 'test': test}
    content = {f'{name}_dataloader': dict(dataset=one) for name, one in loaders.items() if one}
    return Config(dict(default_scope='mmseg', **content))


def inspect(cfg, **options):
    return inspect_data(cfg, progress=False, **options)


def found(report):
    return [(one.check, one.source, one.path, one.detail) for one in report.findings]


def both(data):
    return config(cityscapes(data), cityscapes(data, 'val'))


def save(path, pixels):
    Image.fromarray(pixels).save(path)


def read(path):
    return np.array(Image.open(path))


def test_clean_data(scenes):
    report = inspect(both(scenes))
    assert report.findings == [] and report.remarks == []
    counts = report.counts
    assert [(name, one.images, one.checked, one.labels) for name, one in counts.items()] == [
        ('train', 4, 4, 4),
        ('val', 2, 2, 2),
    ]
    assert report.to_leave_out('train') == []


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ('damage', 'check', 'detail'),
    [
        (lambda path: path.write_bytes(b''), 'unreadable', 'the file is empty'),
        (lambda path: path.write_bytes(b'text'), 'unreadable', 'it is no image'),
        (truncate, 'unreadable', 'truncated'),
    ],
)
@pytest.mark.parametrize(('kind', 'name'), [('image', IMAGE), ('label', LABEL)])
def test_unreadable_files(data, kind, name, damage, check, detail):
    damage(data / name)
    report = inspect(both(data))
    ((found_check, source, path, found_detail),) = found(report)
    assert (found_check, source, path) == (f'{kind}_{check}', 'train', name)
    assert detail in found_detail
    assert report.to_leave_out('train') == [IMAGE] and report.to_leave_out('val') == []


def test_a_missing_label(data):
    (data / LABEL).unlink()
    assert found(inspect(both(data))) == [('label_missing', 'train', LABEL, '')]


def test_a_label_that_was_not_converted(data):
    (data / LABEL).rename(data / LABEL.replace('TrainIds', 'Ids'))
    hint = 'tools/dataset_converters/cityscapes.py makes it from _labelIds.png'
    assert found(inspect(both(data))) == [('label_missing', 'train', LABEL, hint)]


def test_an_image_that_only_a_list_names(data):
    (data / 'list.txt').write_text(f'{STEM}\nashford/gone\n{STEM}\n')
    report = inspect(config(cityscapes(data, ann_file='list.txt', data_root=str(data))))
    assert found(report)[:3] == [
        ('listed_twice', 'train', IMAGE, ''),
        ('image_missing', 'train', 'leftImg8bit/train/ashford/gone_leftImg8bit.png', ''),
        ('label_missing', 'train', 'gtFine/train/ashford/gone_gtFine_labelTrainIds.png', ''),
    ]
    assert {one.check for one in report.findings[3:]} == {'image_unused', 'label_unused'}
    # leaving out the path would take both of its lines away
    assert report.to_leave_out('train') == [
        'leftImg8bit/train/ashford/gone_leftImg8bit.png',
    ]


def test_sizes_that_differ(data):
    save(data / LABEL, read(data / LABEL)[:, :100])
    expected = ('label_size', 'train', LABEL, 'image 128 x 64, label 100 x 64')
    assert found(inspect(both(data))) == [expected]


def test_a_turned_image_has_the_size_that_training_sees(data):
    image = Image.open(data / IMAGE)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(data / IMAGE, exif=exif)
    expected = ('label_size', 'train', LABEL, 'image 64 x 128, label 128 x 64')
    assert found(inspect(both(data))) == [expected]


def test_labels_outside_the_classes(data):
    labels = read(data / LABEL)
    labels[0, :5], labels[1, :2] = 19, 77
    save(data / LABEL, labels)
    detail = '19, 77 in 7 pixel(s), allowed are 0..18 and 255 (ignored)'
    assert found(inspect(both(data))) == [('label_values', 'train', LABEL, detail)]


def test_an_empty_annotation(data):
    save(data / LABEL, np.full((64, 128), 255, np.uint8))
    assert found(inspect(both(data))) == [('label_empty', 'train', LABEL, 'only 255')]


def test_the_ignored_label_is_the_dataset_s(data):
    labels = read(data / LABEL)
    labels[0, :5] = 255
    save(data / LABEL, labels)
    for path in (data / 'gtFine/train').rglob('*.png'):
        labels = read(path)
        labels[labels == 255] = 30
        save(path, labels)
    assert inspect(config(cityscapes(data, ignore_index=30))).findings == []
    save(data / LABEL, np.full((64, 128), 255, np.uint8))
    detail = '255 in 8192 pixel(s), allowed are 0..18 and 30 (ignored)'
    report = inspect(config(cityscapes(data, ignore_index=30)))
    assert found(report) == [('label_values', 'train', LABEL, detail)]


def test_a_label_in_colour(data):
    save(data / LABEL, np.zeros((64, 128, 3), np.uint8))
    detail = "its pixels are of kind 'RGB'"
    assert found(inspect(both(data))) == [('label_format', 'train', LABEL, detail)]


def test_picked_classes_leave_the_others_out(data):
    picked = dict(metainfo=dict(classes=('bicycle',)))
    save(data / LABEL, np.full((64, 128), 17, np.uint8))
    report = inspect(config(cityscapes(data, **picked)))
    assert ('label_empty', 'train', LABEL, 'only 17') in found(report)
    save(data / LABEL, np.full((64, 128), 18, np.uint8))
    assert LABEL not in [one.path for one in inspect(config(cityscapes(data, **picked))).findings]


def test_ade20k_counts_from_one(tmp_path):
    write_ade20k(tmp_path, train=2, val=0, size=(64, 128), progress=False)
    dataset = dict(
        type='ADE20KDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=[dict(type='CheckedLoadAnnotations', num_classes=150)],
    )
    assert inspect(config(dataset)).findings == []
    path = 'annotations/training/ADE_train_00000001.png'
    save(tmp_path / path, np.full((64, 128), 151, np.uint8))
    detail = '151 in 8192 pixel(s), allowed are 1..150 and 0, 255 (ignored)'
    assert found(inspect(config(dataset))) == [('label_values', 'train', path, detail)]
    save(tmp_path / path, np.zeros((64, 128), np.uint8))
    assert found(inspect(config(dataset))) == [('label_empty', 'train', path, 'only 0')]


def test_an_image_of_val_in_train(data):
    shutil.copy(data / VAL, data / IMAGE)
    report = inspect(both(data))
    detail = f'same content as val: {VAL}'
    assert found(report) == [('duplicate_between', 'train', IMAGE, detail)]
    # validation stays as it is
    assert report.to_leave_out('train') == [IMAGE] and report.to_leave_out('val') == []
    without = inspect(both(data), hashes=False)
    assert without.findings == []
    assert without.remarks == ['images were not compared by content (--no-hash)']


def test_an_image_twice_in_train(data):
    shutil.copy(data / IMAGE, data / SECOND)
    report = inspect(both(data))
    detail = f'same content as train: {IMAGE}'
    assert found(report) == [('duplicate_within', 'train', SECOND, detail)]
    assert report.to_leave_out('train') == [SECOND]


@pytest.mark.parametrize('hashes', [True, False])
def test_validation_on_the_training_data(data, hashes):
    report = inspect(config(cityscapes(data), cityscapes(data)), hashes=hashes)
    assert [one.check for one in report.findings] == ['duplicate_between'] * 4
    assert found(report)[0][2:] == (IMAGE, f'same content as val: {IMAGE}')


def test_unreadable_images_are_no_duplicates(data):
    for name in (IMAGE, SECOND):
        (data / name).write_bytes(b'')
    assert [one.check for one in inspect(both(data)).findings] == ['image_unreadable'] * 2


def test_one_name_in_both_splits_is_a_note(data):
    for folder, kind in (('leftImg8bit', 'leftImg8bit'), ('gtFine', 'gtFine_labelTrainIds')):
        old, new = data / folder / 'val/elmburg', data / folder / 'val/elmburg'
        (old / f'elmburg_000000_000019_{kind}.png').rename(
            new / f'ashford_000000_000019_{kind}.png'
        )
    report = inspect(both(data))
    other = 'leftImg8bit/val/elmburg/ashford_000000_000019_leftImg8bit.png'
    assert found(report) == [('same_name', 'train', IMAGE, f'same name as val: {other}')]
    assert report.problems == [] and report.to_leave_out('train') == []


def test_files_that_nothing_uses_are_notes(data):
    shutil.copy(data / IMAGE, data / 'leftImg8bit/train/ashford/stray.jpg')
    (data / IMAGE).unlink()
    report = inspect(both(data))
    assert found(report) == [
        ('image_unused', 'train', 'leftImg8bit/train/ashford/stray.jpg', ''),
        ('label_unused', 'train', LABEL, ''),
    ]
    assert report.problems == []


def test_labels_that_no_pipeline_reads_are_not_missed(data):
    shutil.rmtree(data / 'gtFine')
    report = inspect(config(None, None, cityscapes(data, 'val', pipeline=STEPS[:1])))
    assert report.findings == []
    assert report.remarks == ['test: no annotations that are read here, images only']


def test_wrapped_datasets(data):
    truncate(data / IMAGE)
    inner = cityscapes(data)
    repeated = dict(type='RepeatDataset', times=3, dataset=inner)
    assert [one[:3] for one in found(inspect(config(repeated)))] == [
        ('image_unreadable', 'train', IMAGE)
    ]
    joined = dict(type='ConcatDataset', datasets=[repeated, cityscapes(data, 'val')])
    report = inspect(config(joined))
    assert [one[:3] for one in found(report)] == [('image_unreadable', 'train.0', IMAGE)]
    assert {name: one.key for name, one in report.counts.items()} == {
        'train.0': 'train_dataloader.dataset.datasets.0.dataset',
        'train.1': 'train_dataloader.dataset.datasets.1',
    }
    # the same data twice weights them
    twice = dict(type='ConcatDataset', datasets=[cityscapes(data, 'val')] * 2)
    assert inspect(config(twice)).findings == []


def test_test_is_checked_once_where_it_is_val(scenes):
    val = cityscapes(scenes, 'val')
    report = inspect(config(None, val, {**val, 'test_mode': True}))
    assert list(report.counts) == ['val']
    assert report.remarks == ['test: the same data as val, checked once']
    other = inspect(config(None, val, {**val, 'indices': [1]}))
    assert [one[:2] for one in found(other)] == [('duplicate_between', 'val')]


def test_splits_and_limit(data):
    truncate(data / VAL)
    assert inspect(both(data), splits=['train']).findings == []
    assert len(inspect(both(data), splits=['val']).findings) == 1
    truncate(data / 'leftImg8bit/val/fernwick/fernwick_000000_000019_leftImg8bit.png')
    limited = inspect(both(data), limit=1)
    assert [one[:3] for one in found(limited)] == [('image_unreadable', 'val', VAL)]
    assert limited.counts['train'].checked == 1
    assert limited.remarks == ['only the first 1 image(s) of each dataset were checked']


def test_processes_change_nothing(data, monkeypatch):
    truncate(data / IMAGE)
    shutil.copy(data / VAL, data / SECOND)
    alone = inspect(both(data))
    monkeypatch.setattr(inspection, 'IMAGES_PER_PROCESS', 1)
    assert inspect(both(data), jobs=2).as_dict() == alone.as_dict()
    assert len(alone.findings) == 2


def test_what_cannot_be_checked(data, tmp_path):
    with pytest.raises(SegformerPlusPlusError, match=r'no test_dataloader; it has train, val$'):
        inspect(both(data), splits=['test'])
    with pytest.raises(SegformerPlusPlusError, match='no data loader'):
        inspect(config(None))
    with pytest.raises(SegformerPlusPlusError, match=r'limit=0 is not allowed'):
        inspect(both(data), limit=0)
    with pytest.raises(SegformerPlusPlusError, match=r'jobs=0 is not allowed'):
        inspect(both(data), jobs=0)
    missing = (
        r'data not found: \S+/nowhere \(train_dataloader.dataset.data_root\); expected are images '
        r'\S+/leftImg8bit/train/\*\*/\*_leftImg8bit.png, labels '
        r'\S+/gtFine/train/\*\*/\*_gtFine_labelTrainIds.png; see docs/data.md'
    )
    with pytest.raises(SegformerPlusPlusError, match=missing):
        inspect(config(cityscapes(tmp_path / 'nowhere')))
    shutil.rmtree(data / 'gtFine')
    with pytest.raises(SegformerPlusPlusError, match=r'gtFine/train .*data_prefix.seg_map_path'):
        inspect(config(cityscapes(data)))
    (data / 'gtFine/train').mkdir(parents=True)
    with pytest.raises(SegformerPlusPlusError, match=r'dataset is empty; expected .*docs/data.md'):
        inspect(config(cityscapes(data, img_suffix='.jpg')))
