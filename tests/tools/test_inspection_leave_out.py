"""Tests that listed images are left out of the Runner's data loaders of both toolboxes."""

import json
import shutil

import pytest

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (registers LeaveOut; must precede mmpose)

# isort: split
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.loading.leave_out import read_list, relative, without_listed, write_list
from tools.dataset_checks.inspection import inspect_data, write_fix_lists

IMAGE = 'leftImg8bit/train/ashford/ashford_000000_000019_leftImg8bit.png'
PERSON = 'images/train/triple_jump_01/triple_jump_01_(00012).jpg'
CODEC = dict(type='MSRAHeatmap', input_size=(48, 64), heatmap_size=(12, 16), sigma=2)
STEPS = {
    'mmseg': [
        dict(type='CheckedLoadImageFromFile'),
        dict(type='CheckedLoadAnnotations', num_classes=19),
        dict(type='PackSegInputs'),
    ],
    'mmpose': [
        dict(type='CheckedLoadImage'),
        dict(type='GetBBoxCenterScale'),
        dict(type='TopdownAffine', input_size=(48, 64)),
        dict(type='GenerateTarget', encoder=CODEC),
        dict(type='PackPoseInputs'),
    ],
}


@pytest.fixture
def scenes(drawn, tmp_path):
    shutil.copytree(drawn('cityscapes'), tmp_path / 'data')
    prefix = dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train')
    root = str(tmp_path / 'data')
    dataset = dict(type='CityscapesDataset', data_root=root, data_prefix=prefix)
    return dict(dataset, pipeline=STEPS['mmseg'])


@pytest.fixture
def jumpers(drawn, tmp_path):
    pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it
    shutil.copytree(drawn('jbd'), tmp_path / 'data')
    files = dict(ann_file='annotations/train_jump.json', data_prefix=dict(img='images/train/'))
    dataset = dict(type='JumpBroadcastDataset', data_root=str(tmp_path / 'data'), **files)
    return dict(dataset, pipeline=STEPS['mmpose'])


def without(dataset, path):
    return dict(type='LeaveOut', leave_out=str(path), dataset=dataset)


def config(scope, dataset):
    return Config(dict(default_scope=scope, train_dataloader=dict(dataset=dataset)))


def inspect(cfg):
    return inspect_data(cfg, progress=False)


def images(scope, dataset):
    """Lists what a Runner's loader hands out in one pass."""
    sampler = dict(type='DefaultSampler', shuffle=False)
    loader = dict(batch_size=1, num_workers=0, sampler=sampler, dataset=dataset)
    with DefaultScope.overwrite_default_scope(scope):
        batches = list(Runner.build_dataloader(loader))
    return [sample.img_path for batch in batches for sample in batch['data_samples']]


def build(scope, dataset):
    with DefaultScope.overwrite_default_scope(scope):
        return DATASETS.build(dataset)


def test_from_a_damaged_image_to_training_without_it(scenes, tmp_path):
    damaged = tmp_path / 'data' / IMAGE
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with pytest.raises(SegformerPlusPlusError, match='cannot be read'):
        images('mmseg', scenes)
    cfg = config('mmseg', scenes)
    (path,) = write_fix_lists(inspect(cfg), tmp_path / 'lists' / 'fix.txt')
    assert path == tmp_path / 'lists' / 'fix.train.txt'
    lines = path.read_text().splitlines()
    assert lines[-1] == IMAGE and all(line.startswith('# ') for line in lines[:-1])
    assert [item.name for item in path.parent.iterdir()] == [path.name]

    dataset = without(scenes, path)
    left = images('mmseg', dataset)
    assert len(left) == 3 and str(damaged) not in left
    repeated = dict(type='RepeatDataset', times=2, dataset=dataset)
    assert images('mmseg', repeated) == left * 2

    cfg.train_dataloader.dataset = dataset
    report = inspect(cfg)
    assert report.findings == []
    assert (report.counts['train'].images, report.counts['train'].left_out) == (3, [IMAGE])
    # a list that is written again still has what it had
    write_fix_lists(report, tmp_path / 'lists' / 'fix.txt')
    assert list(read_list(path, None).values()) == [IMAGE]


def test_a_missing_frame_with_mmpose(jumpers, tmp_path):
    (tmp_path / 'data' / PERSON).unlink()
    with pytest.raises(SegformerPlusPlusError, match='cannot be read'):
        images('mmpose', jumpers)
    cfg = config('mmpose', jumpers)
    (path,) = write_fix_lists(inspect(cfg), tmp_path / 'fix.txt')
    dataset = without(jumpers, path)
    left = images('mmpose', dataset)
    assert len(left) == 7 and not any(image.endswith(PERSON) for image in left)
    built = build('mmpose', dataset)
    assert type(built).__name__ == 'JumpBroadcastDataset' and len(built) == 7
    assert built.metainfo['num_keypoints'] == 20
    cfg.train_dataloader.dataset = dataset
    assert inspect(cfg).findings == []


def test_whom_mmpose_drops_itself_may_be_listed(jumpers, tmp_path):
    file = tmp_path / 'data' / jumpers['ann_file']
    content = json.loads(file.read_text())
    content['annotations'][0]['bbox'] = [10, 10, 0, 50]
    file.write_text(json.dumps(content))
    cfg = config('mmpose', jumpers)
    report = inspect(cfg)
    assert [one.check for one in report.problems] == ['box_empty']
    (path,) = write_fix_lists(report, tmp_path / 'fix.txt')
    cfg.train_dataloader.dataset = without(jumpers, path)
    assert len(images('mmpose', cfg.train_dataloader.dataset)) == 7
    assert inspect(cfg).findings == []


def test_coco_s_metric_does_not_count_who_was_left_out(jumpers, tmp_path):
    path = tmp_path / 'fix.txt'
    for text, counted in (('', True), (PERSON, False)):
        path.write_text(text)
        build('mmpose', without({**jumpers, 'test_mode': True}, path))
        info = MessageHub.get_current_instance().get_info('jump_broadcast_ann_file')
        assert (info is not None) == counted


def test_paths_as_people_write_them(scenes, tmp_path):
    path = tmp_path / 'fix.txt'
    root = tmp_path / 'data'
    path.write_text(f'# a comment\n\n./{IMAGE}\n{root / IMAGE}\n')
    assert len(build('mmseg', without(scenes, path))) == 3
    assert relative(str(root / IMAGE), str(root)) == IMAGE
    assert relative(str(tmp_path / 'x.png'), str(root)) == str(tmp_path / 'x.png')
    write_list(path, [relative(str(root / '#1.png'), str(root))], ['header'])
    assert list(read_list(path, str(root))) == [str(root / '#1.png')]


@pytest.mark.parametrize('name', ['\udcff.png', 'two\nlines.png', 'a.png '])
def test_names_that_a_list_cannot_hold(tmp_path, name):
    with pytest.raises(SegformerPlusPlusError, match='is no line in UTF-8; rename the image'):
        write_list(tmp_path / 'fix.txt', ['a.png', name], ['header'])
    assert not (tmp_path / 'fix.txt').exists()


def test_a_list_that_does_not_fit(scenes, tmp_path):
    path = tmp_path / 'fix.txt'
    with pytest.raises(SegformerPlusPlusError, match=r'cannot read leave_out=\S+ No such file'):
        build('mmseg', without(scenes, path))
    path.write_text('z/nothing.png\na/nothing.png\n')
    message = r'lists a/nothing.png, which is no image of the dataset, and 1 more: write paths'
    with pytest.raises(SegformerPlusPlusError, match=message):
        build('mmseg', without(scenes, path))
    cfg = config('mmseg', without(scenes, path))
    with pytest.raises(SegformerPlusPlusError, match=message):
        inspect(cfg)
    everything = (tmp_path / 'data/leftImg8bit/train').rglob('*.png')
    path.write_text('\n'.join(map(str, everything)))
    with pytest.raises(SegformerPlusPlusError, match='leaves no image of the dataset'):
        build('mmseg', without(scenes, path))


def test_around_a_wrapper(scenes, tmp_path):
    path = tmp_path / 'fix.txt'
    path.write_text('')
    with pytest.raises(SegformerPlusPlusError, match='not RepeatDataset; put LeaveOut inside'):
        build('mmseg', without(dict(type='RepeatDataset', times=2, dataset=scenes), path))


@pytest.mark.parametrize('kind', ['LeaveOut', 'mmengine.LeaveOut', without_listed])
def test_a_check_leaves_out_whatever_way_the_config_names_it(scenes, tmp_path, kind):
    (tmp_path / 'data' / IMAGE).write_bytes(b'no image')
    (tmp_path / 'bad.txt').write_text(f'{IMAGE}\n')
    dataset = dict(without(scenes, tmp_path / 'bad.txt'), type=kind)
    cfg = Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=dataset)))
    report = inspect_data(cfg, progress=False)
    assert report.problems == [] and report.counts['train'].left_out == [IMAGE]
