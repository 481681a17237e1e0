"""CamVid: what is listed, what becomes of its labels, and what is wrong with damaged ones."""

import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from PIL import Image

from segformer_plusplus.errors import SegformerPlusPlusError, describe_error
from segformer_plusplus.segmentation import CamVidDataset
from tools.dataset_checks.inspection import inspect_data, write_fix_lists

VOID, WIDTH, HEIGHT = 11, 48, 36
NAMES = ['0001TP_1', '0001TP_2', '0006R0_1', 'Seq05VD_1']
KINDS = dict(png=['.png'] * 4, jpeg=['.jpg'] * 4, mixed=['.png', '.jpg', '.jpeg', '.JPG'])
STEPS = [
    dict(type='CheckedLoadImageFromFile'),
    dict(type='CheckedLoadAnnotations', num_classes=11),
    dict(type='PackSegInputs'),
]


class Tree:
    """Writes noise and labels; the suffixes are those of the images."""

    def __init__(self, root, suffixes=KINDS['mixed']):
        self.root = root
        self.labels = np.random.default_rng().integers(0, 12, (4, HEIGHT, WIDTH), dtype=np.uint8)
        self.images = [
            root / 'train' / f'{name}{s}' for name, s in zip(NAMES, suffixes, strict=True)
        ]
        self.maps = [root / 'trainannot' / f'{name}.png' for name in NAMES]
        for folder in ('train', 'trainannot'):
            (root / folder).mkdir()
        for image, path, labels in zip(self.images, self.maps, self.labels, strict=True):
            Image.effect_noise((WIDTH, HEIGHT), 60).convert('RGB').save(image)
            Image.fromarray(labels).save(path)

    def settings(self, labels='trainannot', steps=STEPS, **options):
        prefix = dict(img_path='train', **(dict(seg_map_path=labels) if labels else {}))
        settings = dict(type='CamVidDataset', data_root=str(self.root), data_prefix=prefix)
        return dict(settings, pipeline=steps, **options)

    def build(self, **options):
        init_default_scope('mmseg')
        return DATASETS.build(self.settings(**options))

    def relabel(self, index, value):
        self.labels[index, 3, 5:9] = value
        Image.fromarray(self.labels[index]).save(self.maps[index])

    def turn(self, index, orientation=6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(self.images[index]) as image:
            image.convert('RGB').save(self.images[index], exif=exif)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def check(tree, **options):
    loader = dict(dataset=tree.settings(**options))
    return inspect_data(
        Config(dict(default_scope='mmseg', train_dataloader=loader)), progress=False
    )


def problems(report):
    return [(one.check, one.path, one.detail) for one in report.problems]


def refused(words):
    return pytest.raises(SegformerPlusPlusError, match=f'^[^\n]*{words}[^\n]*$')


@pytest.mark.parametrize('suffixes', KINDS.values(), ids=KINDS)
def test_images_and_their_label_maps(tmp_path, suffixes):
    tree = Tree(tmp_path, suffixes)
    dataset = tree.build()
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert [info['img_path'] for info in infos] == list(map(str, tree.images))
    assert [info['seg_map_path'] for info in infos] == list(map(str, tree.maps))
    for sample, labels in zip(dataset, tree.labels, strict=True):
        found = sample['data_samples'].gt_sem_seg.data[0].numpy()
        np.testing.assert_array_equal(found, np.where(labels == VOID, 255, labels))
    assert problems(check(tree)) == []


def test_classes():
    info = CamVidDataset(lazy_init=True).metainfo
    assert info['classes'][::5] == ('Sky', 'Tree', 'Bicyclist') and len(info['classes']) == 11
    assert len(info['palette']) == len(set(map(tuple, info['palette']))) == 11


def test_void_is_not_counted(tree):
    dataset, metric = tree.build(), IoUMetric(iou_metrics=['mIoU'])
    metric.dataset_meta = dataset.metainfo
    predicted = np.random.default_rng().integers(0, 11, tree.labels.shape)
    for labels, sample in zip(predicted, dataset, strict=True):
        sample = sample['data_samples']
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(labels[None]))
        assert isinstance(sample, SegDataSample)
        metric.process({}, [sample.to_dict()])
    there = tree.labels != VOID
    pairs = [((predicted == k) & there, tree.labels == k) for k in range(11)]
    expected = 100 * np.mean([(p & t).sum() / (p | t).sum() for p, t in pairs])
    assert metric.evaluate(4)['mIoU'] == pytest.approx(expected, abs=0.01)


def test_picked_classes(tree):
    names = CamVidDataset.METAINFO['classes']
    old = np.random.default_rng().choice(11, 3, replace=False)
    steps = [STEPS[0], dict(STEPS[1], num_classes=3), STEPS[2]]
    picked = dict(metainfo=dict(classes=[names[k] for k in old]), steps=steps)
    dataset = tree.build(**picked)
    assert dataset.metainfo['palette'] == [CamVidDataset.METAINFO['palette'][k] for k in old]
    for sample, labels in zip(dataset, tree.labels, strict=True):
        expected = np.full(labels.shape, 255)
        for new, k in enumerate(old):
            expected[labels == k] = new
        np.testing.assert_array_equal(sample['data_samples'].gt_sem_seg.data[0], expected)
    assert problems(check(tree, **picked)) == []


@pytest.mark.parametrize('value', [12, 200])
def test_a_label_outside_the_classes(tree, value):
    index = np.random.default_rng().integers(4)
    tree.relabel(index, value)
    where = rf'label map {tree.maps[index]} has the label {value} in 4 pixel'
    with refused(rf'{where}\(s\), allowed are 0\.\.10 and 11, 255 \(ignored\)'):
        tree.build()[index]
    detail = f'{value} in 4 pixel(s), allowed are 0..10 and 11, 255 (ignored)'
    assert problems(check(tree)) == [('label_values', f'trainannot/{NAMES[index]}.png', detail)]


def test_255_is_ignored_like_void(tree):
    tree.relabel(0, 255)
    found = tree.build()[0]['data_samples'].gt_sem_seg.data[0]
    assert (found == 255).sum() == (tree.labels[0] == VOID).sum() + 4
    assert problems(check(tree)) == []


def test_a_label_map_of_void_alone_is_found(tree):
    Image.fromarray(np.full((HEIGHT, WIDTH), VOID, np.uint8)).save(tree.maps[1])
    assert problems(check(tree)) == [('label_empty', f'trainannot/{NAMES[1]}.png', 'only 11')]


def test_a_missing_label_map(tree):
    tree.maps[2].unlink()
    with refused(f'label map {tree.maps[2]} cannot be read: No such file or directory'):
        tree.build()[2]
    assert problems(check(tree)) == [('label_missing', f'trainannot/{NAMES[2]}.png', '')]


@pytest.mark.parametrize('index', range(4))
@pytest.mark.parametrize('late', [False, True])
def test_a_photograph_that_exif_turns(tree, index, late):
    """Its label map is not turned: what was trained on were other places, or nothing at all."""
    tree.turn(index)
    resize = dict(type='Resize', scale=(WIDTH, HEIGHT), keep_ratio=True)
    steps = [STEPS[0], resize, *STEPS[1:]] if late else STEPS
    words = (
        f'label map {tree.maps[index]} is {WIDTH} x {HEIGHT}, but image {tree.images[index]} is '
        f'{HEIGHT} x {WIDTH} as it is loaded'
    )
    dataset = tree.build(steps=steps)
    for other in range(4):
        if other != index:
            assert dataset[other] is not None
    with refused(re.escape(words)):
        dataset[index]
    detail = f'image {HEIGHT} x {WIDTH}, label {WIDTH} x {HEIGHT}'
    assert problems(check(tree)) == [('label_size', f'trainannot/{NAMES[index]}.png', detail)]


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('orientation', range(2, 9))
def test_a_turn_that_the_size_does_not_show(tree, orientation, backend):
    steps = [dict(STEPS[0], imdecode_backend=backend), *STEPS[1:]]
    side = min(WIDTH, HEIGHT)
    for path in (tree.images[1], tree.maps[1]):
        with Image.open(path) as image:
            image.crop((0, 0, side, side)).save(path)
    turned = [1] if orientation > 4 else [1, 2]
    for index in turned:
        tree.turn(index, orientation)
        words = f'label map {tree.maps[index]} of {tree.images[index]}: EXIF data turn the image'
        with refused(re.escape(words) + '.* save the image upright'):
            tree.build(steps=steps)[index]
    found = problems(check(tree, steps=steps))
    assert [each[:2] for each in found] == [
        ('label_size', f'trainannot/{NAMES[index]}.png') for index in turned
    ]


def test_a_turned_photograph_that_is_loaded_as_it_lies(tree):
    tree.turn(0)
    steps = [dict(STEPS[0], color_type='color_ignore_orientation'), *STEPS[1:]]
    assert tree.build(steps=steps)[0]['inputs'].shape[1:] == (HEIGHT, WIDTH)


def test_two_images_of_one_name(tree):
    other = tree.images[0].with_suffix('.jpg')
    Image.effect_noise((WIDTH, HEIGHT), 60).convert('RGB').save(other)
    words = f'{tree.root}/train has {other.name} and {tree.images[0].name}, .* keep one of them'
    for listed in (tree.build, lambda: check(tree)):
        with refused(words):
            listed()


def test_files_that_are_no_images_are_passed_over(tree):
    for name in ('Thumbs.db', 'train.txt', 'readme', '.hidden.png', f'{NAMES[0]}.png.bak'):
        (tree.root / 'train' / name).write_bytes(b'no image')
    assert len(tree.build()) == 4
    assert problems(check(tree)) == []


def test_folders_below_the_folder(tree):
    for path in (tree.images[0], tree.maps[0]):
        (path.parent / 'day').mkdir()
        path.rename(path.parent / 'day' / path.name)
    infos = [tree.build().get_data_info(index) for index in range(4)]
    assert infos[3]['img_path'] == str(tree.root / f'train/day/{tree.images[0].name}')
    assert infos[3]['seg_map_path'] == str(tree.root / f'trainannot/day/{NAMES[0]}.png')
    assert check(tree).findings == []


def test_images_without_labels(tree):
    steps = [STEPS[0], STEPS[2]]
    sample = tree.build(labels=None, steps=steps)[0]['data_samples']
    assert 'gt_sem_seg' not in sample and 'seg_map_path' not in sample
    assert check(tree, labels=None, steps=steps).counts['train'].labels == 0
    with pytest.raises(KeyError, match='seg_map_path'):  # for which training has a line
        tree.build(labels=None)[0]


@pytest.mark.parametrize(
    'option',
    [
        dict(ann_file='train.txt'),
        dict(img_suffix='.png'),
        dict(seg_map_suffix='_L.png'),
        dict(reduce_zero_label=True),
    ],
    ids=str,
)
def test_what_would_be_ignored_is_refused(tree, option):
    with refused(f'CamVidDataset takes no {next(iter(option))}: every PNG or JPEG'):
        tree.build(**option)


def test_a_folder_that_is_missing_or_empty(tree):
    for path in tree.images:
        path.unlink()
    with pytest.raises(ValueError) as error:
        tree.build()
    assert describe_error(error.value).startswith('a dataset is empty')
    with refused('train_dataloader.dataset is empty; expected are images'):
        check(tree)
    (tree.root / 'train').rmdir()
    with pytest.raises(FileNotFoundError) as error:
        tree.build()
    assert str(tree.root / 'train') in describe_error(error.value)
    with refused('data not found: .*/train '):
        check(tree)
    assert len(CamVidDataset(lazy_init=True, data_root=str(tree.root)).metainfo['classes']) == 11


def test_what_is_damaged_is_left_out(tree):
    tree.relabel(1, 12)
    tree.turn(3)
    (fixed,) = write_fix_lists(check(tree), str(tree.root / 'fix.txt'))
    init_default_scope('mmseg')
    dataset = DATASETS.build(dict(type='LeaveOut', leave_out=str(fixed), dataset=tree.settings()))
    assert type(dataset) is CamVidDataset
    kept = [sample['data_samples'].img_path for sample in dataset]
    assert kept == [str(tree.images[0]), str(tree.images[2])]


@pytest.mark.parametrize('labels', ['trainannot', 'nowhere', None])
def test_the_fidelity_of_a_test_set_with_labels_and_without(tree, labels):
    from inference.tiny import SEGMENTATION, write_model

    from segformer_plusplus.evaluation.fidelity import open_fidelity

    resize = dict(type='Resize', scale=(WIDTH, HEIGHT), keep_ratio=True)
    steps = [STEPS[0], resize, *(STEPS[1:] if labels else STEPS[2:])]
    test = dict(batch_size=1, num_workers=0, dataset=tree.settings(labels=labels, steps=steps))
    test['sampler'] = dict(type='DefaultSampler', shuffle=False)
    config, checkpoint = write_model(
        tree.root / 'model',
        SEGMENTATION + "model['decode_head']['num_classes'] = 11\n"
        f"test_dataloader = {test}\ntest_evaluator = dict(type='IoUMetric')\ntest_cfg = dict()\n",
    )
    fidelity = open_fidelity(config, checkpoint, device='cpu', progress=False)
    assert ('mIoU' in fidelity.measure('none')) == (labels == 'trainannot')
    assert fidelity.measure('none')['changed'] == 0
    assert 0 <= fidelity.measure('hq')['changed'] < 100
