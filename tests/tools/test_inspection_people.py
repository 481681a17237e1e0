"""The check of keypoint data: one damage at a time, and the exact finding."""

import json
import shutil

import pytest

pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it

import segformer_plusplus  # noqa: F401  (must precede mmpose)

# isort: split
from mmengine.config import Config
from PIL import Image

from segformer_plusplus.errors import SegformerPlusPlusError
from tools.dataset_checks.inspection import inspect_data
from tools.dataset_generators.layouts import write_coco, write_jbd

FILE = 'annotations/train_jump.json'
IMAGE = 'images/train/triple_jump_01/triple_jump_01_(00012).jpg'
SECOND = 'images/train/high_jump_01/high_jump_01_(00012).jpg'


@pytest.fixture(scope='module')
def jumpers(tmp_path_factory):
    folder = tmp_path_factory.mktemp('jumpers') / 'data'
    write_jbd(folder, train=4, val=2, size=(180, 240), progress=False)
    return folder


@pytest.fixture
def data(jumpers, tmp_path):
    """A copy to damage."""
    return shutil.copytree(jumpers, tmp_path / 'data')


def config(data, **more):
    loaders = {}
    for split in ('train', 'val'):
        dataset = dict(
            type='JumpBroadcastDataset',
            data_root=str(data),
            ann_file=f'annotations/{split}_jump.json',
            data_prefix=dict(img=f'images/{split}/'),
            test_mode=split == 'val',
            **more,
        )
        loaders[f'{split}_dataloader'] = dict(dataset=dataset)
    return Config(dict(default_scope='mmpose', **loaders))


def inspect(data, **more):
    return inspect_data(config(data, **more), progress=False)


def found(report):
    return [(one.check, one.source, one.path, one.detail) for one in report.findings]


def change(data, edit):
    """Edits the annotations of the training split; ``edit`` takes the whole, and the first."""
    content = json.loads((data / FILE).read_text())
    edit(content, content['annotations'][0])
    (data / FILE).write_text(json.dumps(content))


def test_clean_data(jumpers):
    report = inspect(jumpers)
    assert report.findings == []
    counts = {name: (one.images, one.checked, one.people) for name, one in report.counts.items()}
    assert counts == {'train': (4, 4, 4), 'val': (2, 2, 2)}


def move(index, x, y):
    def edit(content, person):
        person['keypoints'][3 * index : 3 * index + 3] = [x, y, 2]

    return edit


def set_box(*numbers):
    return lambda content, person: person.update(bbox=list(numbers))


def show(content, person):
    person['keypoints'][2::3] = [2] * 20
    person['num_keypoints'] = 20


def hide(content, person):
    person['keypoints'][2::3] = [0] * 20


def shorten(content, person):
    person['keypoints'] = person['keypoints'][:-3]


def miscount(content, person):
    person['num_keypoints'] = 3


@pytest.mark.parametrize(
    ('edit', 'check', 'detail'),
    [
        (
            move(4, 240, 10.5),
            'keypoint_outside',
            'keypoint 4 at x=240, y=10.5; the image has 240 x 180',
        ),
        (move(0, 5, -1), 'keypoint_outside', 'keypoint 0 at x=5, y=-1; the image has 240 x 180'),
        (hide, 'keypoints_invisible', 'every visibility is 0'),
        (shorten, 'keypoint_count', '57 numbers, 20 keypoints have 60'),
        (miscount, 'keypoint_count', 'num_keypoints is 3, but 20 are annotated'),
        (set_box(10, 10, 0, 50), 'box_empty', 'x=10, y=10, width=0, height=50'),
        (set_box(10, 10, 20, -5), 'box_empty', 'x=10, y=10, width=20, height=-5'),
        (
            set_box(300, 10, 20, 50),
            'box_outside',
            'x=300, y=10, width=20, height=50; the image has 240 x 180',
        ),
    ],
)
def test_people(data, edit, check, detail):
    change(data, show)
    change(data, edit)
    report = inspect(data)
    # mmpose drops whom it cannot cut out, and then opens the image for nobody
    problems = [one for one in found(report) if one[0] != 'image_unused']
    assert problems == [(check, 'train', IMAGE, f'annotation 1: {detail}')]
    assert report.to_leave_out('train') == [IMAGE] and report.to_leave_out('val') == []


@pytest.mark.parametrize(
    ('edit', 'check', 'detail'),
    [
        (
            set_box(-5, 10, 100, 50),
            'box_clipped',
            'x=-5, y=10, width=100, height=50; the image has 240 x 180',
        ),
        (lambda content, person: person.update(iscrowd=1), 'not_annotated', 'a crowd'),
        (
            lambda content, person: person.update(keypoints=[0] * 60, num_keypoints=0),
            'not_annotated',
            'no keypoint is annotated',
        ),
    ],
)
def test_what_is_meant_so_is_a_note(data, edit, check, detail):
    change(data, edit)
    report = inspect(data)
    notes = [one for one in found(report) if one[0] != 'image_unused']
    assert notes == [(check, 'train', IMAGE, f'annotation 1: {detail}')]
    assert report.problems == [] and report.to_leave_out('train') == []
    # mmpose does not open an image with nobody to train on
    unused = [one.path for one in report.of('image_unused')]
    assert unused == ([IMAGE] if check == 'not_annotated' else [])


def test_a_missing_image(data):
    (data / IMAGE).unlink()
    assert found(inspect(data)) == [('image_missing', 'train', IMAGE, '')]


def test_a_truncated_image(data):
    (data / IMAGE).write_bytes((data / IMAGE).read_bytes()[:-300])
    ((check, source, path, detail),) = found(inspect(data))
    assert (check, source, path) == ('image_unreadable', 'train', IMAGE)
    assert 'truncated' in detail


def test_an_image_of_another_size_than_annotated(data):
    image = Image.open(data / IMAGE)
    canvas = Image.new('RGB', (300, 200))
    canvas.paste(image)
    canvas.save(data / IMAGE)
    expected = ('annotated_size', 'train', IMAGE, '300 x 200, annotated as 240 x 180')
    assert found(inspect(data)) == [expected]


def test_an_image_that_no_annotation_uses(data):
    shutil.copy(data / IMAGE, data / 'images/train/stray.jpg')
    report = inspect(data)
    assert found(report) == [('image_unused', 'train', 'images/train/stray.jpg', '')]
    assert report.problems == []


def test_a_frame_of_val_in_train(data):
    other = 'images/val/triple_jump_03/triple_jump_03_(00012).jpg'
    shutil.copy(data / other, data / IMAGE)
    detail = f'same content as val: {other}'
    assert found(inspect(data)) == [('duplicate_between', 'train', IMAGE, detail)]


def test_an_image_of_several_people_is_listed_once(tmp_path):
    write_coco(tmp_path, train=3, val=0, size=(180, 240), progress=False)
    dataset = dict(
        type='CocoDataset',
        data_root=str(tmp_path),
        ann_file='annotations/person_keypoints_train2017.json',
        data_prefix=dict(img='train2017/'),
    )
    cfg = Config(dict(default_scope='mmpose', train_dataloader=dict(dataset=dataset)))
    report = inspect_data(cfg, progress=False)
    assert report.findings == []
    assert (report.counts['train'].images, report.counts['train'].people) == (3, 6)
    cfg.train_dataloader.dataset.data_mode = 'bottomup'
    assert inspect_data(cfg, progress=False).findings == []


def of_no_image(content, person):
    person['image_id'] = 99


def id_twice(content, person):
    content['annotations'][1]['id'] = person['id']


def image_twice(content, person):
    content['images'].append({**content['images'][0], 'id': 99})


def image_id_twice(content, person):
    first, second = content['images'][:2]
    content['images'].append({**second, 'file_name': first['file_name']})
    content['images'][0]['id'] = 98
    person['image_id'] = 98


@pytest.mark.parametrize(
    ('edit', 'expected'),
    [
        (of_no_image, ('annotation', 'train', FILE, 'annotation 1: no image has id 99')),
        (
            id_twice,
            ('annotation', 'train', SECOND, 'annotation 1: its id stands twice or not at all'),
        ),
        (image_twice, ('listed_twice', 'train', IMAGE, 'a second time as image 99')),
        (image_id_twice, ('annotation', 'train', IMAGE, 'its image id 2 stands twice')),
    ],
)
def test_what_only_the_annotation_file_can_mend(data, edit, expected):
    change(data, edit)
    report = inspect(data)
    assert expected in found(report)
    assert {one.check for one in report.problems} <= {'annotation', 'listed_twice'}
    assert report.to_leave_out('train') == []


@pytest.mark.parametrize(
    ('edit', 'expected'),
    [
        (
            lambda content, person: person['keypoints'].pop(),
            ('keypoint_count', IMAGE, 'annotation 1: 59 numbers, 20 keypoints have 60'),
        ),
        (
            lambda content, person: person['bbox'].pop(),
            ('annotation', IMAGE, 'annotation 1: bbox has 3 numbers, not x, y, width and height'),
        ),
        (
            lambda content, person: person.update(bbox='all'),
            ('annotation', IMAGE, 'annotation 1: bbox is no list of numbers'),
        ),
        (
            lambda content, person: content['images'][3].pop('width'),
            ('annotation', FILE, 'image 4 has no width'),
        ),
    ],
)
def test_annotations_that_mmpose_cannot_load(data, edit, expected):
    change(data, edit)
    report = inspect(data)
    assert report.findings[0].check == 'load' and report.findings[0].path == FILE
    assert expected in [(one.check, one.path, one.detail) for one in report.findings]


def test_a_part_of_the_data_is_judged_alone(data):
    change(data, lambda content, person: person.update(bbox=[10, 10, 0, 50]))
    assert [one.check for one in inspect(data).findings] == ['box_empty', 'image_unused']
    assert inspect(data, indices=[1]).findings == []


def test_no_json(data):
    (data / FILE).write_text('{')
    with pytest.raises(SegformerPlusPlusError, match=r'train_jump.json cannot be read as JSON'):
        inspect(data)
    (data / FILE).unlink()
    with pytest.raises(SegformerPlusPlusError, match=r'data not found: \S+train_jump.json \(train'):
        inspect(data)
