"""Tests the check of segmentation data: each damage gives exactly its finding."""

import re
import shutil

import pytest

pytest.importorskip('mmseg')

import numpy as np
from mmengine.config import Config
from PIL import Image

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.segmentation import CheckedLoadAnnotations
from tools.dataset_checks import inspection
from tools.dataset_checks.duplicates import Copy, find_duplicates
from tools.dataset_checks.inspection import inspect_data

STEM = 'ashford/ashford_000000_000019'
FOLDER, SUFFIX = 'leftImg8bit/train', '_leftImg8bit.png'
IMAGE = f'{FOLDER}/{STEM}{SUFFIX}'
LABEL = f'gtFine/train/{STEM}_gtFine_labelTrainIds.png'
SECOND = f'{FOLDER}/birkstadt/birkstadt_000000_000019{SUFFIX}'
VAL = f'leftImg8bit/val/elmburg/elmburg_000000_000019{SUFFIX}'
STEPS = [
    dict(type='CheckedLoadImageFromFile'),
    dict(type='CheckedLoadAnnotations', num_classes=19),
    dict(type='PackSegInputs'),
]


@pytest.fixture
def data(drawn, tmp_path):
    """Copies a drawn set to damage it."""
    return shutil.copytree(drawn('cityscapes'), tmp_path / 'data')


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


def edit(path, change):
    """Changes the pixels in place, or returns others."""
    pixels = np.array(Image.open(path))
    changed = change(pixels)
    Image.fromarray(pixels if changed is None else changed).save(path)


def fill(value, *shape):
    return lambda path: edit(path, lambda pixels: np.full((64, 128, *shape), value, np.uint8))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def turn(path):
    image = Image.open(path)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def outside(pixels):
    pixels[0, :5], pixels[1, :2] = 19, 77


def test_clean_data(drawn):
    report = inspect(both(drawn('cityscapes')))
    assert report.findings == [] and report.remarks == []
    counts = report.counts.items()
    assert [(name, one.images, one.checked, one.labels) for name, one in counts] == [
        ('train', 4, 4, 4),
        ('val', 2, 2, 2),
    ]
    assert report.to_leave_out('train') == []


UNREADABLE = [
    (lambda path: path.write_bytes(b''), 'the file is empty'),
    (lambda path: path.write_bytes(b'text'), 'it is no image'),
    (truncate, '.*truncated.*'),
]


@pytest.mark.parametrize(
    ('name', 'damage', 'check', 'detail'),
    [
        *((IMAGE, damage, 'image_unreadable', detail) for damage, detail in UNREADABLE),
        *((LABEL, damage, 'label_unreadable', detail) for damage, detail in UNREADABLE),
        (LABEL, lambda path: path.unlink(), 'label_missing', ''),
        (
            *(LABEL, lambda path: path.rename(str(path).replace('TrainIds', 'Ids'))),
            *(
                'label_missing',
                'tools/dataset_converters/cityscapes.py makes it from _labelIds.png',
            ),
        ),
        (
            *(LABEL, lambda path: edit(path, lambda pixels: pixels[:, :100])),
            *('label_size', 'image 128 x 64, label 100 x 64'),
        ),
        # an image has the size that training sees
        (IMAGE, turn, 'label_size', 'image 64 x 128, label 128 x 64'),
        (
            *(LABEL, lambda path: edit(path, outside)),
            *('label_values', '19, 77 in 7 pixel(s), allowed are 0..18 and 255 (ignored)'),
        ),
        (LABEL, fill(255), 'label_empty', 'only 255'),
        (LABEL, fill(0, 3), 'label_format', "its pixels are of kind 'RGB'"),
    ],
)
def test_one_damage(data, name, damage, check, detail):
    damage(data / name)
    report = inspect(both(data))
    path = IMAGE if check.startswith('image') else LABEL
    assert [one[:3] for one in found(report)] == [(check, 'train', path)]
    assert re.fullmatch(
        detail if damage is truncate else re.escape(detail), report.findings[0].detail
    )
    assert report.to_leave_out('train') == [IMAGE] and report.to_leave_out('val') == []


def test_an_image_that_only_a_list_names(data):
    (data / 'list.txt').write_text(f'{STEM}\nashford/gone\n{STEM}\n')
    report = inspect(config(cityscapes(data, ann_file='list.txt')))
    gone = f'{FOLDER}/ashford/gone{SUFFIX}'
    assert found(report)[:3] == [
        ('listed_twice', 'train', IMAGE, ''),
        ('image_missing', 'train', gone, ''),
        ('label_missing', 'train', 'gtFine/train/ashford/gone_gtFine_labelTrainIds.png', ''),
    ]
    assert {one.check for one in report.findings[3:]} == {'image_unused', 'label_unused'}
    # leaving out the path would take both of its lines away
    assert report.to_leave_out('train') == [gone]


def test_the_ignored_label_is_the_dataset_s(data):
    def ignore_30(pixels):
        pixels[pixels == 255] = 30

    for path in (data / 'gtFine/train').rglob('*.png'):
        edit(path, ignore_30)
    cfg = config(cityscapes(data, ignore_index=30))
    assert inspect(cfg).findings == []
    fill(255)(data / LABEL)
    detail = '255 in 8192 pixel(s), allowed are 0..18 and 30 (ignored)'
    assert found(inspect(cfg)) == [('label_values', 'train', LABEL, detail)]


def test_picked_classes_leave_the_others_out(data):
    cfg = config(cityscapes(data, metainfo=dict(classes=('bicycle',))))
    fill(17)(data / LABEL)
    assert ('label_empty', 'train', LABEL, 'only 17') in found(inspect(cfg))
    fill(18)(data / LABEL)
    assert LABEL not in [one.path for one in inspect(cfg).findings]


def test_ade20k_counts_from_one(drawn, tmp_path):
    data = shutil.copytree(drawn('ade20k'), tmp_path / 'data')
    dataset = dict(
        type='ADE20KDataset',
        data_root=str(data),
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=[dict(type='CheckedLoadAnnotations', num_classes=150)],
    )
    (absent,) = inspect(config(dataset)).findings
    assert absent.check == 'class_absent' and absent.detail.startswith('3 (floor), 5 (ceiling), ')
    path = 'annotations/training/ADE_train_00000001.png'
    for value, check, detail in (
        (151, 'label_values', '151 in 8192 pixel(s), allowed are 1..150 and 0, 255 (ignored)'),
        (0, 'label_empty', 'only 0'),
    ):
        fill(value)(data / path)
        assert found(inspect(config(dataset)))[0] == (check, 'train', path, detail)


@pytest.mark.parametrize(
    ('source', 'target', 'check', 'other'),
    [(VAL, IMAGE, 'duplicate_between', 'val'), (IMAGE, SECOND, 'duplicate_within', 'train')],
)
def test_equal_images(data, source, target, check, other):
    shutil.copy(data / source, data / target)
    report = inspect(both(data))
    assert found(report) == [(check, 'train', target, f'same content as {other}: {source}')]
    # validation stays as it is
    assert report.to_leave_out('train') == [target] and report.to_leave_out('val') == []
    without = inspect(both(data), hashes=False)
    assert without.findings == []
    assert without.remarks == ['images were not compared by content (--no-hash)']


def as_png(image, path):
    image.save(path, compress_level=1)


def turned(image, path):
    exif = Image.Exif()
    exif[0x0112] = 8
    image.transpose(Image.Transpose.ROTATE_270).save(path, exif=exif)


def with_alpha(image, path):
    image.putalpha(200)
    image.save(path)


@pytest.mark.parametrize(
    'write',
    [
        as_png,
        turned,
        with_alpha,
        lambda image, path: image.save(path, 'BMP'),
        lambda image, path: image.save(path, 'WEBP', lossless=True),
        lambda image, path: image.save(path, 'TIFF', compression='tiff_lzw'),
    ],
)
def test_an_image_that_was_saved_anew_is_the_same(data, write):
    """What counts are the pixels that training sees, not bytes, format or the EXIF turn."""
    write(Image.open(data / VAL).convert('RGB'), data / IMAGE)
    report = inspect(both(data))
    assert [one.detail for one in report.of('duplicate_between')] == [f'same content as val: {VAL}']
    edit(data / IMAGE, lambda pixels: pixels[..., :3] ^ 1)
    assert inspect(both(data)).of('duplicate_between') == []


def grey(kind, most):
    pixels = np.linspace(0, most, 64 * 128).reshape(64, 128).astype(kind)
    return lambda path: Image.fromarray(pixels).save(path, 'TIFF')


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize(
    ('damage', 'check', 'detail'),
    [
        (grey(np.uint16, 65535), 'image_bits', 'the upper 8 of its 16 bits are kept'),
        (
            grey(np.float32, 1),
            'image_values',
            "image .* has pixels of kind 'F', .*",
        ),
        (
            grey(np.int32, 9e5),
            'image_values',
            "image .* has pixels of kind 'I', .*",
        ),
        (
            *(lambda path: Image.open(path).convert('RGBA').save(path), 'image_part'),
            'its transparency is dropped',
        ),
        (
            *(lambda path: path.write_bytes(b'%!PS-Adobe-3.0'), 'image_unreadable'),
            'it is EPS, which is not opened; allowed are JPEG, .*',
        ),
    ],
)
def test_what_the_loader_of_the_config_would_do(data, damage, check, detail, backend):
    damage(data / IMAGE)
    load = dict(type='LoadImageFromFile', imdecode_backend=backend)
    train = cityscapes(data, pipeline=[load, *STEPS[1:]])
    report = inspect(config(train))
    assert [one[:3] for one in found(report)] == [(check, 'train', IMAGE)]
    assert re.fullmatch(detail, report.findings[0].detail)
    assert bool(report.problems) == (check != 'image_part')
    load['color_type'] = 'unchanged'
    assert [one.check for one in inspect(config(train)).findings] == (
        [check] if check == 'image_unreadable' else []
    )


class LoadOwn:
    """Somebody's loader, of which nothing is known."""

    def __call__(self, results):
        return results


def test_a_loader_of_one_s_own_is_not_judged(data):
    grey(np.float32, 1)(data / IMAGE)
    train = cityscapes(data, pipeline=[dict(type=LoadOwn), *STEPS[1:]])
    assert inspect(config(train)).findings == []


def test_labels_are_read_by_what_derives_from_a_step_that_reads_them(data):
    class Truth(CheckedLoadAnnotations):
        """Is somebody's own, with no word of what it does in its name."""

    edit(next((data / 'gtFine/train').rglob('*.png')), lambda pixels: pixels * 0 + 77)
    steps = [STEPS[0], dict(type=Truth, num_classes=19), STEPS[2]]
    report = inspect(config(cityscapes(data, pipeline=steps)))
    assert 'label_values' in {one.check for one in report.problems}
    assert not any('no annotations' in remark for remark in report.remarks)


def test_masks_of_0_and_255(data):
    """With two classes all that is not background would be ignored, without a word."""
    for path in (data / 'gtFine').rglob('*.png'):
        edit(path, lambda pixels: np.where(pixels == 0, 0, 255).astype(np.uint8))
    two = dict(metainfo=dict(classes=('ground', 'rest'), palette=[[0] * 3, [9] * 3]))
    steps = [STEPS[0], dict(STEPS[1], num_classes=2), STEPS[2]]
    dataset = dict(cityscapes(data, pipeline=steps), type='BaseSegDataset', **two)
    dataset.update(img_suffix=SUFFIX, seg_map_suffix='_gtFine_labelTrainIds.png')
    report = inspect(config(dataset))
    (alone,) = report.problems
    ignored = sum(
        (np.array(Image.open(p)) == 255).sum() for p in (data / 'gtFine/train').rglob('*.png')
    )
    assert (alone.check, alone.path) == ('class_alone', 'gtFine/train')
    assert alone.detail == f'1 (rest) of 2 classes; {ignored} pixel(s) are 255, which is ignored'


def test_a_class_without_a_pixel_is_a_note(data):
    def without_sky(pixels):
        pixels[pixels == 10] = 255

    for path in (data / 'gtFine/train').rglob('*.png'):
        edit(path, without_sky)
    report = inspect(both(data))
    (one,) = report.findings
    assert (one.check, one.source) == ('class_absent', 'train') and not report.problems
    assert one.detail.startswith('10 (sky) of 19 classes; ')


def test_what_is_named_like_an_image_and_is_no_file(data):
    folder = data / FOLDER / 'ashford'
    (folder / f'gone{SUFFIX}').symlink_to('nowhere')
    (folder / 'x.JPG').mkdir()
    Image.new('RGB', (9, 9)).save(folder / 'x.JPG/a.gif')
    report = inspect(both(data))
    assert found(report) == [
        ('image_no_file', 'train', f'{FOLDER}/ashford/gone{SUFFIX}', 'a link to nothing'),
        ('image_no_file', 'train', f'{FOLDER}/ashford/x.JPG', 'a folder'),
        ('image_unused', 'train', f'{FOLDER}/ashford/x.JPG/a.gif', ''),
    ]
    assert len(report.problems) == 2 and report.to_leave_out('train') == []


@pytest.mark.parametrize(
    ('model', 'detail'),
    [
        (dict(decode_head=dict(num_classes=19)), None),
        (dict(decode_head=dict(num_classes=19, out_channels=1)), None),
        (dict(decode_head=dict(num_classes=1)), None),
        (
            dict(decode_head=dict(num_classes=150), auxiliary_head=[dict(num_classes=19)]),
            'model.decode_head.num_classes is 150, but the data have 19 classes',
        ),
        (
            dict(auxiliary_head=[dict(num_classes=19), dict(num_classes=18)]),
            'model.auxiliary_head.num_classes is 18, but the data have 19 classes',
        ),
    ],
)
def test_heads_of_another_number_of_classes(drawn, model, detail):
    cfg = config(cityscapes(drawn('cityscapes')))
    cfg.model = model
    findings = [(one.check, one.path, one.detail) for one in inspect(cfg).findings]
    assert findings == ([('model', FOLDER, detail)] if detail else [])


@pytest.mark.parametrize('hashes', [True, False])
def test_validation_on_the_training_data(drawn, hashes):
    train = cityscapes(drawn('cityscapes'))
    report = inspect(config(train, train), hashes=hashes)
    assert [one.check for one in report.findings] == ['duplicate_between'] * 4
    assert found(report)[0][2:] == (IMAGE, f'same content as val: {IMAGE}')


def test_unreadable_images_are_no_duplicates(data):
    for name in (IMAGE, SECOND):
        (data / name).write_bytes(b'')
    assert [one.check for one in inspect(both(data)).findings] == ['image_unreadable'] * 2


def test_one_name_in_both_splits_is_a_note(data):
    for kind in ('leftImg8bit', 'gtFine_labelTrainIds'):
        path = data / f'{kind.split("_")[0]}/val/elmburg/elmburg_000000_000019_{kind}.png'
        path.rename(str(path).replace('elmburg_', 'ashford_'))
    report = inspect(both(data))
    other = VAL.replace('elmburg_', 'ashford_')
    assert found(report) == [('same_name', 'train', IMAGE, f'same name as val: {other}')]
    assert report.problems == [] and report.to_leave_out('train') == []


def test_one_name_twice_in_a_split_is_no_finding():
    names = ('a/1.png', 'b/1.png')
    copies = [Copy('train', 'train', f'/{name}', name, content=name) for name in names]
    assert list(find_duplicates(copies)) == []


def test_files_that_nothing_uses_are_notes(data):
    (data / IMAGE).rename(data / f'{FOLDER}/ashford/stray.JPG')
    report = inspect(both(data))
    assert found(report) == [
        ('image_unused', 'train', f'{FOLDER}/ashford/stray.JPG', ''),
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
    repeated = dict(type='RepeatDataset', times=3, dataset=cityscapes(data))
    assert [one[:3] for one in found(inspect(config(repeated)))] == [
        ('image_unreadable', 'train', IMAGE)
    ]
    report = inspect(
        config(dict(type='ConcatDataset', datasets=[repeated, cityscapes(data, 'val')]))
    )
    assert [one[:3] for one in found(report)] == [('image_unreadable', 'train.0', IMAGE)]
    assert {name: one.key for name, one in report.counts.items()} == {
        'train.0': 'train_dataloader.dataset.datasets.0.dataset',
        'train.1': 'train_dataloader.dataset.datasets.1',
    }
    # the same data twice weights them
    twice = dict(type='ConcatDataset', datasets=[cityscapes(data, 'val')] * 2)
    assert inspect(config(twice)).findings == []


def test_test_is_checked_once_where_it_is_val(drawn):
    val = cityscapes(drawn('cityscapes'), 'val')
    report = inspect(config(None, val, {**val, 'test_mode': True}))
    assert list(report.counts) == ['val']
    assert report.remarks == ['test: the same data as val, checked once']
    other = inspect(config(None, val, {**val, 'indices': [1]}))
    assert [one[:2] for one in found(other)] == [('duplicate_between', 'val')]


def test_splits_and_limit(data):
    truncate(data / VAL)
    assert inspect(both(data), splits=['train']).findings == []
    assert len(inspect(both(data), splits=['val']).findings) == 1
    truncate(data / VAL.replace('elmburg', 'fernwick'))
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


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(splits=['test']), r'no test_dataloader; it has train, val$'),
        (dict(jobs=0), 'jobs=0 is not allowed'),
    ],
)
def test_wrong_options(drawn, options, message):
    with pytest.raises(SegformerPlusPlusError, match=message):
        inspect(both(drawn('cityscapes')), **options)


def test_what_cannot_be_checked(data):
    with pytest.raises(SegformerPlusPlusError, match='no data loader'):
        inspect(config(None))
    shutil.rmtree(data / 'gtFine')
    with pytest.raises(SegformerPlusPlusError, match=r'gtFine/train .*data_prefix.seg_map_path'):
        inspect(config(cityscapes(data)))
    (data / 'gtFine/train').mkdir(parents=True)
    with pytest.raises(SegformerPlusPlusError, match=r'dataset is empty; expected .*docs/data.md'):
        inspect(config(cityscapes(data, img_suffix='.jpg')))
