"""Tests the check of keypoint data: each damage gives exactly its finding."""

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

FILE = 'annotations/train_jump.json'
IMAGE = 'images/train/triple_jump_01/triple_jump_01_(00012).jpg'
SECOND = 'images/train/high_jump_01/high_jump_01_(00012).jpg'
SIZE = 'the image has 200 x 120'


@pytest.fixture
def data(drawn, tmp_path):
    """Copies a drawn set to damage it."""
    return shutil.copytree(drawn('jbd'), tmp_path / 'data')


def inspect(data, head=None, evaluator=None, **more):
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
    cfg = dict(model=dict(head=head), val_evaluator=evaluator, **loaders)
    return inspect_data(Config(dict(default_scope='mmpose', **cfg)), progress=False)


def found(report):
    return [(one.check, one.source, one.path, one.detail) for one in report.findings]


def change(data, edit):
    """Edits the annotations of the training split; ``edit`` takes the whole, and the first."""
    content = json.loads((data / FILE).read_text())
    edit(content, content['annotations'][0])
    (data / FILE).write_text(json.dumps(content))


def update(**values):
    return lambda content, person: person.update(values)


def move(index, x, y):
    def edit(content, person):
        person['keypoints'][3 * index : 3 * index + 3] = [x, y, 2]

    return edit


def see(visibility):
    def edit(content, person):
        person['keypoints'][2::3] = [visibility] * 20
        person['num_keypoints'] = 20

    return edit


def drop(key, count):
    return lambda content, person: person.update({key: person[key][:-count]})


def test_clean_data(drawn):
    report = inspect(drawn('jbd'))
    assert report.findings == []
    counts = {name: (one.images, one.checked, one.people) for name, one in report.counts.items()}
    assert counts == {'train': (8, 8, 8), 'val': (6, 6, 6)}


@pytest.mark.parametrize(
    ('edit', 'check', 'detail'),
    [
        (move(4, 200, 10.5), 'keypoint_outside', f'keypoint 4 at x=200, y=10.5; {SIZE}'),
        (move(0, 5, -1), 'keypoint_outside', f'keypoint 0 at x=5, y=-1; {SIZE}'),
        (see(0), 'keypoints_invisible', 'every visibility is 0'),
        (drop('keypoints', 3), 'keypoint_count', '57 numbers, 20 keypoints have 60'),
        (
            *(update(num_keypoints=3), 'keypoint_count'),
            'num_keypoints is 3, but 20 are annotated',
        ),
        (update(bbox=[10, 10, 0, 50]), 'box_empty', 'x=10, y=10, width=0, height=50'),
        (update(bbox=[10, 10, 20, -5]), 'box_empty', 'x=10, y=10, width=20, height=-5'),
        (
            *(update(bbox=[300, 10, 20, 50]), 'box_outside'),
            f'x=300, y=10, width=20, height=50; {SIZE}',
        ),
        # notes: what is meant so
        (
            *(update(bbox=[-5, 10, 100, 50]), 'box_clipped'),
            f'x=-5, y=10, width=100, height=50; {SIZE}',
        ),
        (update(iscrowd=1), 'not_annotated', 'a crowd'),
        (
            *(update(keypoints=[0] * 60, num_keypoints=0), 'not_annotated'),
            'no keypoint is annotated',
        ),
    ],
)
def test_people(data, edit, check, detail):
    change(data, see(2))
    change(data, edit)
    report = inspect(data)
    note = check in ('box_clipped', 'not_annotated')
    others = [one for one in found(report) if one[0] != 'image_unused']
    assert others == [(check, 'train', IMAGE, f'annotation 1: {detail}')]
    assert bool(report.problems) != note
    assert report.to_leave_out('train') == ([] if note else [IMAGE])
    assert report.to_leave_out('val') == []
    # mmpose drops whom it cannot cut out or train on, and then opens the image for nobody
    if note:
        unused = [one.path for one in report.of('image_unused')]
        assert unused == ([IMAGE] if check == 'not_annotated' else [])


def test_a_person_with_keypoints_but_no_box(data):
    """mmpose leaves such a person out without a word."""
    change(data, lambda content, person: (see(2)(content, person), person.pop('bbox')))
    report = inspect(data)
    assert [one.check for one in report.problems] == ['box_missing']
    change(data, lambda content, person: [one.pop('bbox', 0) for one in content['annotations']])
    with pytest.raises(SegformerPlusPlusError, match=r'empty: nobody in its 8 .* has bbox; expec'):
        inspect(data)


@pytest.mark.parametrize(
    'metric', ['CocoMetric', 'mmpose.CocoMetric', 'class', 'derived', 'BoxPCK']
)
@pytest.mark.parametrize('key', ['area', 'iscrowd', 'num_keypoints'])
def test_what_a_metric_needs_of_the_annotations(data, key, metric):
    from mmpose.evaluation import CocoMetric

    classes = {'class': CocoMetric, 'derived': type('Ours', (CocoMetric,), {})}
    file = data / 'annotations/val_jump.json'
    content = json.loads(file.read_text())
    for person in content['annotations'][:4]:
        del person[key]
    file.write_text(json.dumps(content))
    step = dict(type=classes.get(metric, metric))
    details = [one.detail for one in inspect(data, evaluator=[step]).problems]
    assert len(details) == (metric != 'BoxPCK')
    assert all(f'4 annotation(s) have no {key}, which CocoMetric needs' in one for one in details)
    # how the metric is told to go without
    assert bool(inspect(data, evaluator=dict(step, use_area=False)).problems) == (
        metric != 'BoxPCK' and key != 'area'
    )


def test_a_head_of_another_number_of_keypoints(data):
    assert inspect(data, head=dict(out_channels=20)).findings == []
    findings = inspect(data, head=dict(out_channels=17)).findings
    assert [(one.check, one.source, one.detail) for one in findings] == [
        ('model', split, 'model.head.out_channels is 17, but the data have 20 keypoints')
        for split in ('train', 'val')
    ]


def enlarge(data):
    canvas = Image.new('RGB', (300, 200))
    canvas.paste(Image.open(data / IMAGE))
    canvas.save(data / IMAGE)


STRAY = 'images/train/stray.jpg'


@pytest.mark.parametrize(
    ('damage', 'expected'),
    [
        (lambda data: (data / IMAGE).unlink(), ('image_missing', IMAGE, '')),
        (enlarge, ('annotated_size', IMAGE, '300 x 200, annotated as 200 x 120')),
        (lambda data: shutil.copy(data / IMAGE, data / STRAY), ('image_unused', STRAY, '')),
    ],
)
def test_images(data, damage, expected):
    damage(data)
    report = inspect(data)
    assert [(one.check, one.path, one.detail) for one in report.findings] == [expected]
    assert bool(report.problems) == (expected[0] != 'image_unused')


def test_an_image_of_several_people_is_listed_once(drawn):
    dataset = dict(
        type='CocoDataset',
        data_root=str(drawn('coco')),
        ann_file='annotations/person_keypoints_train2017.json',
        data_prefix=dict(img='train2017/'),
    )
    cfg = Config(dict(default_scope='mmpose', train_dataloader=dict(dataset=dataset)))
    report = inspect_data(cfg, progress=False)
    assert report.findings == []
    assert (report.counts['train'].images, report.counts['train'].people) == (8, 15)
    cfg.train_dataloader.dataset.data_mode = 'bottomup'
    assert inspect_data(cfg, progress=False).findings == []


def id_twice(content, person):
    content['annotations'][1]['id'] = person['id']


def image_twice(content, person):
    content['images'].append({**content['images'][0], 'id': 99})


def image_id_twice(content, person):
    first, second = content['images'][:2]
    content['images'].append({**second, 'file_name': first['file_name']})
    first['id'] = person['image_id'] = 98


@pytest.mark.parametrize(
    ('edit', 'loads', 'expected'),
    [
        (update(image_id=99), True, ('annotation', FILE, 'annotation 1: no image has id 99')),
        (
            *(id_twice, True),
            ('annotation', SECOND, 'annotation 1: its id stands twice or not at all'),
        ),
        (image_twice, True, ('listed_twice', IMAGE, 'a second time as image 99')),
        (image_id_twice, True, ('annotation', IMAGE, 'its image id 2 stands twice')),
        # mmpose cannot load these
        (
            *(drop('keypoints', 1), False),
            ('keypoint_count', IMAGE, 'annotation 1: 59 numbers, 20 keypoints have 60'),
        ),
        (
            *(drop('bbox', 1), False),
            ('annotation', IMAGE, 'annotation 1: bbox has 3 numbers, not x, y, width and height'),
        ),
        (
            *(update(bbox='all'), False),
            ('annotation', IMAGE, 'annotation 1: bbox is no list of numbers'),
        ),
        (
            *(lambda content, person: content['images'][3].pop('width'), False),
            ('annotation', FILE, 'image 4 has no width'),
        ),
    ],
)
def test_what_only_the_annotation_file_can_mend(data, edit, loads, expected):
    change(data, edit)
    report = inspect(data)
    assert expected in [(one.check, one.path, one.detail) for one in report.findings]
    if loads:
        assert {one.check for one in report.problems} <= {'annotation', 'listed_twice'}
        assert report.to_leave_out('train') == []
    else:
        assert (report.findings[0].check, report.findings[0].path) == ('load', FILE)


def test_a_part_of_the_data_is_judged_alone(data):
    change(data, update(bbox=[10, 10, 0, 50]))
    assert [one.check for one in inspect(data).findings] == ['box_empty', 'image_unused']
    assert inspect(data, indices=[1]).findings == []


def test_no_json(data):
    (data / FILE).write_text('{')
    with pytest.raises(SegformerPlusPlusError, match=r'train_jump.json cannot be read as JSON'):
        inspect(data)
    (data / FILE).unlink()
    with pytest.raises(SegformerPlusPlusError, match=r'data not found: \S+train_jump.json \(train'):
        inspect(data)
