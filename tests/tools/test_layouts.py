"""Tests drawn data on disk: what reads it, continues it, refuses it, with any workers."""

import csv
import json
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.pose.keypoints import COCO, JBD
from tools.dataset_generators import layouts
from tools.dataset_generators.jumpers import draw_jumpers
from tools.dataset_generators.layouts import ADE20K_INDEX
from tools.dataset_generators.scene_canvas import CLASSES
from tools.dataset_generators.scenes import draw_scene

GENERATORS = Path(__file__).parents[2] / 'tools' / 'dataset_generators'
LAYOUTS = {
    'cityscapes': ('scenes', 'leftImg8bit'),
    'ade20k': ('scenes', 'images'),
    'jbd': ('jumpers', 'images'),
    'jbd-raw': ('jumpers', 'bbox.csv'),
    'coco': ('jumpers', 'val2017'),
}
"""What each layout draws, and a name in its folder."""

SCENE, PERSON = (64, 128), (120, 200)


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob('*')) if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def times(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob('*')}


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


# The folder


@pytest.mark.parametrize('layout', LAYOUTS)
def test_complete_folder_is_left_alone(drawn, layout, monkeypatch):
    before = times(drawn(layout))
    for name in ('draw_scene', 'draw_jumpers'):
        monkeypatch.setattr(layouts, name, lambda *_, **__: pytest.fail('drawn again'))
    drawn.write(layout, drawn(layout))
    assert times(drawn(layout)) == before
    assert not any(path.name.startswith('.') for path in before)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_interrupted_run_is_continued(drawn, layout, tmp_path, monkeypatch):
    kind, _ = LAYOUTS[layout]
    name = 'draw_scene' if kind == 'scenes' else 'draw_jumpers'
    calls, draw = [], getattr(layouts, name)

    def interrupted(*args, **kwargs):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(args)
        return draw(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(layouts, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            drawn.write(layout, tmp_path)
    assert not json.loads((tmp_path / f'{kind}.json').read_text())['complete']
    written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob('*.*')}
    assert kind == 'scenes' or not {'annotations', 'train.csv'} & written
    monkeypatch.setattr(layouts, name, lambda *a, **k: (calls.append(a), draw(*a, **k))[1])
    drawn.write(layout, tmp_path)
    assert contents(tmp_path) == contents(drawn(layout))
    assert len(calls) == len(set(map(str, calls))), 'drawn twice'


def test_lost_files_are_written_again(drawn, tmp_path):
    drawn.write('jbd', tmp_path)
    for name in ('images/val/high_jump_03/high_jump_03_(00012).jpg', 'annotations/train_jump.json'):
        (tmp_path / name).unlink()
        drawn.write('jbd', tmp_path)
        assert contents(tmp_path) == contents(drawn('jbd'))


@pytest.mark.parametrize('other', [dict(seed=1), dict(size=(96, 192)), dict(train=3), dict(val=1)])
@pytest.mark.parametrize('layout', ['cityscapes', 'jbd'])
def test_other_settings_are_refused(drawn, layout, other):
    before, kind = contents(drawn(layout)), LAYOUTS[layout][0]
    with pytest.raises(SegformerPlusPlusError, match=f'holds other {kind}') as error:
        drawn.write(layout, drawn(layout), **other)
    assert str(drawn(layout)) in str(error.value) and '\n' not in str(error.value)
    assert contents(drawn(layout)) == before


@pytest.mark.parametrize(('layout', 'other'), [('ade20k', 'cityscapes'), ('jbd', 'coco')])
def test_other_layout_is_refused(drawn, layout, other):
    with pytest.raises(SegformerPlusPlusError, match=f'layout={other}'):
        drawn.write(layout, drawn(other))


@pytest.mark.parametrize(
    ('layout', 'name'), [(key, name) for key, (_, name) in LAYOUTS.items()] + [('jbd-raw', 'x')]
)
def test_foreign_files_are_refused(drawn, layout, name, tmp_path):
    name = 'high_jump_03' if name == 'x' else name
    (tmp_path / name).mkdir()
    with pytest.raises(SegformerPlusPlusError, match='not ours'):
        drawn.write(layout, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ('text', 'message'), [('{', 'cannot be read as JSON'), (None, 'is not a folder')]
)
def test_damaged_record_and_a_file_for_a_folder(drawn, tmp_path, text, message):
    if text:
        (tmp_path / 'scenes.json').write_text(text)
    else:
        tmp_path = tmp_path / 'file'
        tmp_path.write_text('')
    with pytest.raises(SegformerPlusPlusError, match=message):
        drawn.write('cityscapes', tmp_path)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(size=(63, 128)), r'size=\(63, 128\)'),
        (dict(size=(1081, 2049)), 'size='),
        (dict(size=(128.0, 256)), 'size='),
        (dict(size=(128, 256, 3)), 'size='),
        (dict(train=-1), 'train=-1'),
        (dict(val=1.5), 'val=1.5'),
        (dict(seed=-1), 'seed=-1'),
        (dict(workers=0), 'workers=0'),
        (dict(workers=True), 'workers=True'),
    ],
)
@pytest.mark.parametrize('layout', ['cityscapes', 'coco'])
def test_wrong_values_are_named(drawn, tmp_path, layout, wrong, message):
    with pytest.raises(SegformerPlusPlusError, match=message):
        drawn.write(layout, tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_command_line_with_two_workers_writes_the_same_bytes_as_one(drawn, tmp_path):
    arguments = ['--train', '4', '--val', '2', '--size', '64x128', '--workers', '2']
    command = [sys.executable, str(GENERATORS / 'synthetic_scenes.py'), str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == contents(drawn('cityscapes'))


@pytest.mark.parametrize('layout', LAYOUTS)
def test_command_line(drawn, layout, capsys):
    main = runpy.run_path(str(GENERATORS / f'synthetic_{LAYOUTS[layout][0]}.py'))['main']
    scenes = LAYOUTS[layout][0] == 'scenes'
    amounts = ['--train', '4', '--val', '2'] if scenes else ['--train', '8', '--val', '6']
    argv = [str(drawn(layout)), '--layout', layout, '--size', '64x128' if scenes else '120x200']
    before = times(drawn(layout))
    assert main([*argv, *amounts]) == 0 and times(drawn(layout)) == before
    capsys.readouterr()
    assert main([*argv, *amounts, '--seed', '9']) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and f'holds other {LAYOUTS[layout][0]}' in errors[0]
    assert main([*argv[:-1], '128']) == 2
    assert "'128' is no shape" in capsys.readouterr().err


# Scenes


def test_files_hold_the_drawn_scene(drawn):
    scene = draw_scene((0, 1, 0), SCENE)
    stem = 'val/elmburg/elmburg_000000_000019'
    image = read(drawn('cityscapes') / f'leftImg8bit/{stem}_leftImg8bit.png')
    labels = read(drawn('cityscapes') / f'gtFine/{stem}_gtFine_labelTrainIds.png')
    assert np.array_equal(image[..., ::-1], scene.image) and np.array_equal(labels, scene.labels)


@pytest.mark.parametrize(
    ('layout', 'name', 'folders', 'count'),
    [
        ('cityscapes', 'CityscapesDataset', ('leftImg8bit/train', 'gtFine/train'), 4),
        ('cityscapes', 'CityscapesDataset', ('leftImg8bit/val', 'gtFine/val'), 2),
        ('ade20k', 'ADE20KDataset', ('images/training', 'annotations/training'), 4),
        ('ade20k', 'ADE20KDataset', ('images/validation', 'annotations/validation'), 2),
    ],
)
def test_scenes_are_read_by_mmseg(drawn, layout, name, folders, count):
    datasets = pytest.importorskip('mmseg.datasets', exc_type=ImportError)
    prefix = dict(zip(('img_path', 'seg_map_path'), folders, strict=True))
    dataset = getattr(datasets, name)(data_root=str(drawn(layout)), data_prefix=prefix, pipeline=[])
    assert len(dataset) == count
    images = set()
    for index in range(count):
        sample = dataset.get_data_info(index)
        labels = read(sample['seg_map_path'])
        assert read(sample['img_path']).shape == (*SCENE, 3)
        assert labels.shape == SCENE and labels.dtype == np.uint8
        if layout == 'ade20k':
            seed = 0, 'validation' in folders[0], index
            expected = draw_scene(seed, SCENE).labels
            table = np.array([*ADE20K_INDEX.values()] + [0] * (256 - len(CLASSES)))
            assert np.array_equal(labels, table[expected])
        images.add(Path(sample['img_path']).read_bytes())
    assert len(images) == count
    assert layout == 'ade20k' or dataset.metainfo['classes'] == CLASSES


def test_ade20k_indices_are_mmsegs():
    datasets = pytest.importorskip('mmseg.datasets', exc_type=ImportError)
    names = datasets.ADE20KDataset.METAINFO['classes']
    renamed = {
        **{'traffic sign': 'signboard', 'vegetation': 'tree', 'terrain': 'grass'},
        **{'rider': 'person', 'motorcycle': 'minibike'},
    }
    assert set(ADE20K_INDEX) == set(CLASSES)
    assert ADE20K_INDEX['train'] == 0 and 'train' not in names
    for ours in set(CLASSES) - {'train'}:
        assert names[ADE20K_INDEX[ours] - 1] == renamed.get(ours, ours)


# Jumpers


@pytest.mark.parametrize(
    ('layout', 'keypoints', 'annotation', 'images'),
    [
        ('jbd', JBD, 'annotations/{}_jump.json', 'images/{}'),
        ('coco', COCO, 'annotations/person_keypoints_{}2017.json', '{}2017'),
    ],
)
@pytest.mark.parametrize(('split', 'count'), [('train', 8), ('val', 6)])
def test_annotations_fit_the_images(drawn, layout, keypoints, annotation, images, split, count):
    content = json.loads((drawn(layout) / annotation.format(split)).read_text())
    (category,) = content['categories']
    assert category['name'] == 'person' and category['keypoints'] == list(keypoints.names)
    limbs = [tuple(keypoints.names[end - 1] for end in limb) for limb in category['skeleton']]
    assert limbs == list(keypoints.limbs)

    sizes = {}
    for image in content['images']:
        path = drawn(layout) / images.format(split) / image['file_name']
        assert read(path).shape == (image['height'], image['width'], 3) == (*PERSON, 3)
        sizes[image['id']] = image['width'], image['height']
    people = content['annotations']
    assert len(content['images']) == len(sizes) == count and min(sizes) >= 1
    assert len({person['id'] for person in people}) == len(people)
    assert {person['image_id'] for person in people} == set(sizes)
    amounts = [1 + index % 3 for index in range(count)]
    assert len(people) == (count if layout == 'jbd' else sum(amounts))
    for person in people:
        points = np.reshape(person['keypoints'], (-1, 3))
        assert len(points) == len(keypoints.names)
        assert person['num_keypoints'] == (points[:, 2] > 0).sum() > 0
        assert set(points[:, 2]) <= {0, 1, 2} and not points[points[:, 2] == 0].any()
        assert (points[:, :2] >= 0).all() and (points[:, :2] < sizes[person['image_id']]).all()
        assert person['category_id'] == 1 and person['iscrowd'] == 0
        assert 0 < person['area'] <= person['bbox'][2] * person['bbox'][3]
        assert person['keypoints'] == np.round(person['keypoints'], 2).tolist()


@pytest.mark.parametrize(
    ('layout', 'annotation'), [('jbd', 'train_jump'), ('coco', 'person_keypoints_train2017')]
)
def test_cocos_tools_read_the_annotations(drawn, layout, annotation, capsys):
    tools = pytest.importorskip('xtcocotools.coco', exc_type=ImportError)
    loaded = tools.COCO(str(drawn(layout) / 'annotations' / f'{annotation}.json'))
    assert len(loaded.getImgIds()) == 8
    people = loaded.loadAnns(loaded.getAnnIds(catIds=loaded.getCatIds(['person'])))
    assert len(people) == len(loaded.anns)


def test_files_hold_the_drawn_frame(drawn):
    frame = draw_jumpers((0, 1, 1), PERSON, discipline='high_jump')
    name = 'high_jump_03/high_jump_03_(00012).jpg'
    stored = read(drawn('jbd') / 'images/val' / name)[..., ::-1].astype(int)
    assert np.abs(stored - frame.image).mean() < 8
    content = json.loads((drawn('jbd') / 'annotations/val_jump.json').read_text())
    assert content['images'][1]['file_name'] == name
    points = np.reshape(content['annotations'][1]['keypoints'], (20, 3))
    assert np.allclose(points, frame.people[0].jbd, atol=0.00501)
    assert content['annotations'][1]['bbox'] == list(frame.people[0].box)


def test_raw_layout_holds_what_the_converted_one_holds(drawn):
    raw, converted = drawn('jbd-raw'), drawn('jbd')
    header, *lines = (raw / 'bbox.csv').read_text().splitlines()
    assert header == 'image_id, min_x, min_y, width, height'
    boxes = {name: list(map(float, box)) for name, *box in (line.split(',') for line in lines)}
    events, pictures, unboxed = {}, [], 0
    for split, count in (('train', 8), ('val', 6)):
        content = json.loads((converted / f'annotations/{split}_jump.json').read_text())
        comment, *lines = (raw / f'{split}.csv').read_text().splitlines()
        rows = list(csv.DictReader(lines, delimiter=';'))
        assert comment.startswith('#') and len(rows) == count
        events[split] = {row['event'] for row in rows}
        people = zip(rows, content['images'], content['annotations'], strict=True)
        for row, image, person in people:
            name = f'{row["event"]}/{row["event"]}_({int(row["frame_num"]):05d}).jpg'
            assert name == image['file_name']
            pictures.append((raw / name).read_bytes())
            assert pictures[-1] == (converted / 'images' / split / name).read_bytes()
            values = [float(row[f'{joint}_{what}']) for joint in JBD.names for what in 'xys']
            assert values == person['keypoints'] and len(row) == 2 + 60
            box = boxes.get(Path(name).stem)
            unboxed += box is None
            assert box in (None, person['bbox'])
    assert unboxed == 2
    assert all(events.values()) and not events['train'] & events['val']
    assert len(set(pictures)) == 14


def test_no_name_is_in_both_splits_of_coco(drawn):
    train, val = (
        {path.name for path in (drawn('coco') / f'{split}2017').iterdir()}
        for split in ('train', 'val')
    )
    assert len(train) == 8 and len(val) == 6 and not train & val
