"""Reading configs, and early checks of their data."""

from pathlib import Path

import pytest
from mmcv.transforms import LoadAnnotations, LoadImageFromFile, Resize
from mmengine.config import Config

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.inference.configs import check_data_roots, is_loader, load_config
from segformer_plusplus.loading.images import CheckedLoadImageFromFile


@pytest.fixture
def net(tmp_path):
    path = tmp_path / 'net.py'
    path.write_text('model = dict(depth=1)')
    return path


def test_load_config(net):
    assert load_config(net).work_dir == str(Path('work_dirs') / 'net')
    assert load_config(net, work_dir='here').work_dir == 'here'
    assert load_config(net, {'model.depth': 2}).model.depth == 2
    assert load_config(net, {'randomness': dict(seed=1)}).randomness.seed == 1


@pytest.mark.parametrize('text', ['model = dict(', 'model = 1 / 0', '_base_ = "nothing.py"'])
def test_a_file_that_is_no_config(net, text):
    net.write_text(text)
    with pytest.raises(SegformerPlusPlusError, match=r'cannot read config .*net\.py'):
        load_config(net)


def test_errors(net):
    with pytest.raises(SegformerPlusPlusError, match='config not found: .*missing.py'):
        load_config(net.parent / 'missing.py')
    with pytest.raises(SegformerPlusPlusError, match="did you mean 'model'"):
        load_config(net, {'modle.depth': 2})
    with pytest.raises(SegformerPlusPlusError, match=r'--cfg-options does not fit .*net\.py'):
        load_config(net, {'model.depth.x': 2})


def make_config(root: Path, wrap: bool = False, **changes) -> Config:
    prefix = dict(img_path='images', seg_map_path='labels')
    pipeline = [dict(type='CheckedLoadImageFromFile'), dict(type='CheckedLoadAnnotations')]
    dataset = dict(data_root=str(root), data_prefix=prefix, pipeline=pipeline)
    dataset.update(changes)
    if wrap:
        dataset = dict(type='RepeatDataset', times=2, dataset=dataset)
    return Config(dict(train_dataloader=dict(dataset=dataset)))


@pytest.fixture
def root(tmp_path):
    for name in ('images', 'labels'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'a.png').touch()
    (tmp_path / 'empty').mkdir()
    return tmp_path


@pytest.mark.parametrize('wrap', [False, True])
@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        ('data_root', dict(data_root='/no/such/root')),
        ('data_prefix.img_path', dict(data_prefix=dict(img_path='x'))),
        ('data_prefix.img', dict(data_prefix=dict(img='empty'))),
        ('data_prefix.seg_map_path', dict(data_prefix=dict(seg_map_path='x'))),
        ('ann_file', dict(ann_file='x.json')),
        ('bbox_file', dict(bbox_file='x.json')),
    ],
)
def test_missing_data(root, wrap, name, changes):
    key = 'train_dataloader.dataset' + ('.dataset' if wrap else '')
    cfg = make_config(root, wrap, **changes)
    with pytest.raises(SegformerPlusPlusError, match=f'--cfg-options {key}.{name}='):
        check_data_roots(cfg, ['train', 'val', 'test'])
    check_data_roots(cfg, ['val', 'test'])


def test_data_that_is_not_missed(root):
    check_data_roots(make_config(root), ['train', 'val', 'test'])
    check_data_roots(make_config(root, data_root='s3://bucket/data'), ['train'])
    prefix = dict(img_path='images', seg_map_path='x')
    unread = [dict(type='CheckedLoadImageFromFile')]
    check_data_roots(make_config(root, data_prefix=prefix, pipeline=unread), ['train'])
    check_data_roots(make_config(root, data_prefix=prefix), ['train'], labels=False)


class Reads(LoadImageFromFile):
    """Is somebody's own."""


IMAGES = [
    'LoadImageFromFile', 'mmcv.LoadImageFromFile', 'mmcv.transforms.LoadImageFromFile',
    'CheckedLoadImageFromFile', 'CheckedLoadImage', LoadImageFromFile, CheckedLoadImageFromFile,
    'LoadImageFromNDArray', 'LoadBiomedicalImageFromFile', 'mmpose.LoadImage', Reads,
]  # fmt: skip
LABELS = ['LoadAnnotations', 'mmseg.LoadAnnotations', 'LoadBiomedicalAnnotation', LoadAnnotations]
OTHERS = ['Resize', 'mmcv.Resize', Resize, 'PackSegInputs', 'NobodyKnows', 'nobody.Knows', None]


@pytest.mark.parametrize('of, kinds', [('Image', IMAGES), ('Annotation', LABELS), (None, OTHERS)])
def test_what_reads_files(of, kinds):
    for kind in kinds:
        step = dict(type=kind)
        assert is_loader(step) is (of is not None)
        assert [is_loader(step, each) for each in ('Image', 'Annotation')] == [
            of == 'Image',
            of == 'Annotation',
        ]
