"""Synthetic jumpers: human joints, left and right where they belong, files that tools read."""

import csv
import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.pose.keypoints import COCO, JBD
from tools.dataset_generators import layouts
from tools.dataset_generators.jumper_pose import (
    DISCIPLINES,
    LIMB_RANGES,
    TRUNK_RANGES,
    Pose,
    sample_pose,
)
from tools.dataset_generators.jumper_skeleton import assemble, view
from tools.dataset_generators.jumpers import draw_jumpers
from tools.dataset_generators.layouts import write_coco, write_jbd, write_jbd_raw

SMALL = 120, 200
AMOUNT = dict(train=8, val=3, size=SMALL, progress=False)
WRITERS = {'jbd': write_jbd, 'jbd-raw': write_jbd_raw, 'coco': write_coco}
CLI = Path(__file__).parents[2] / 'tools' / 'dataset_generators' / 'synthetic_jumpers.py'
BONES = tuple(
    (f'{side}{start}', f'{side}{end}')
    for side in 'rl'
    for start, end in (
        ('sho', 'elb'),
        ('elb', 'wri'),
        ('wri', 'han'),
        ('hip', 'kne'),
        ('kne', 'ank'),
        ('ank', 'hee'),
        ('ank', 'toe'),
        ('hee', 'toe'),
    )
)


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def poses(count: int) -> list[Pose]:
    names = list(DISCIPLINES)
    return [
        sample_pose(np.random.default_rng(seed), DISCIPLINES[names[seed % len(names)]])
        for seed in range(count)
    ]


def standing() -> Pose:
    limbs = dict.fromkeys(LIMB_RANGES, 0.0)
    return Pose(0.0, dict.fromkeys(TRUNK_RANGES, 0.0), limbs, limbs)


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    """A small set in each layout."""
    root = tmp_path_factory.mktemp('jumpers')
    for name, write in WRITERS.items():
        write(root / name, **AMOUNT)
    return root


@pytest.fixture(scope='module')
def frames():
    return [draw_jumpers((0, 0, index), (270, 480), 1 + index % 3) for index in range(60)]


# The skeleton


def test_all_angles_are_within_human_ranges():
    for pose in poses(600):
        for angles, ranges in (
            (pose.trunk, TRUNK_RANGES),
            (pose.right, LIMB_RANGES),
            (pose.left, LIMB_RANGES),
        ):
            assert angles.keys() == ranges.keys()
            for name, (low, high) in ranges.items():
                assert low <= angles[name] <= high, name


def test_poses_differ_and_bend_far():
    knees = [pose.right['knee'] for pose in poses(600)]
    shoulders = [pose.left['shoulder'] for pose in poses(600)]
    assert min(knees) < 5 and max(knees) > 110
    assert min(shoulders) < -40 and max(shoulders) > 150


def test_knees_and_elbows_bend_one_way():
    for pose in poses(200):
        # Without turns about its own axis, a limb stays in the plane that it swings in.
        limbs = [
            angles | dict(hip_out=0, hip_turn=0, shoulder_out=0, shoulder_turn=0)
            for angles in (pose.right, pose.left)
        ]
        points = assemble(Pose(0.0, standing().trunk, *limbs)).points
        for side, angles in zip('rl', limbs, strict=True):
            for joints, name, sign in (
                (('hip', 'kne', 'ank'), 'knee', -1),
                (('sho', 'elb', 'wri'), 'elbow', 1),
            ):
                start, middle, end = (points[side + joint] for joint in joints)
                first, second = middle - start, end - middle
                # About the axis to the right: forward and up is positive.
                turned = np.arctan2(np.cross(first, second)[2], first @ second)
                assert sign * np.degrees(turned) == pytest.approx(angles[name], abs=1e-6)


def test_limbs_keep_their_length():
    bones = np.array(
        [
            [np.linalg.norm(body.points[end] - body.points[start]) for start, end in BONES]
            for body in (assemble(pose).turned(view(33, 8, 4)) for pose in poses(100))
        ]
    )
    assert np.ptp(bones, axis=0).max() < 1e-9
    right, left = np.split(bones[0], 2)
    assert np.allclose(right, left)


def test_height_is_the_standing_height():
    points = assemble(standing(), 1.8).points
    assert points['head'][1] - points['rhee'][1] == pytest.approx(1.8, abs=0.12)


def test_mirrored_pose_has_mirrored_joints():
    for pose in poses(50):
        points = assemble(pose).points
        mirrored = assemble(pose.mirrored()).points
        for name, point in points.items():
            other = mirrored[JBD.mirror(COCO.mirror(name))]
            assert np.allclose(point * (1, 1, -1), other), name


@pytest.mark.parametrize('part', ['sho', 'hip', 'kne', 'elb', 'toe'])
def test_sides_are_where_a_camera_sees_them(part):
    body = assemble(standing())

    def right_from_left(yaw: float) -> np.ndarray:
        points = body.turned(view(yaw)).points
        return points[f'r{part}'] - points[f'l{part}']

    assert right_from_left(90)[0] < -0.1, 'facing the camera: its right is on our left'
    assert right_from_left(270)[0] > 0.1, 'facing away'
    assert right_from_left(0)[2] > 0.1, 'facing right: the right is nearer'
    assert right_from_left(180)[2] < -0.1, 'facing left: the right is farther'
    assert body.turned(view(0)).points['nose'][0] > body.points['skull'][0]


# The picture


def test_same_arguments_same_frame():
    first, second = (draw_jumpers(7, SMALL, 2) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    for one, other in zip(first.people, second.people, strict=True):
        assert np.array_equal(one.jbd, other.jbd) and np.array_equal(one.coco, other.coco)
        assert (one.box, one.area) == (other.box, other.area)


def test_other_seed_other_frame():
    first, second = draw_jumpers(7, SMALL), draw_jumpers(8, SMALL)
    assert not np.array_equal(first.image, second.image)
    assert not np.array_equal(first.people[0].jbd, second.people[0].jbd)


def test_global_random_state_plays_no_part():
    np.random.seed(0)
    first = draw_jumpers(7, SMALL)
    np.random.seed(1)
    assert np.array_equal(first.image, draw_jumpers(7, SMALL).image)


@pytest.mark.parametrize('size', [(96, 128), (97, 131), (1080, 128), (96, 1920), (1080, 1920)])
def test_any_size(size):
    frame = draw_jumpers(1, size, 3)
    assert frame.image.shape == (*size, 3) and frame.image.dtype == np.uint8
    for person in frame.people:
        x, y, width, height = person.box
        assert x >= 0 and y >= 0 and x + width <= size[1] and y + height <= size[0]


def test_keypoints_lie_in_the_box_and_the_box_in_the_frame(frames):
    for frame in frames:
        for person in frame.people:
            x, y, width, height = person.box
            assert 0 < person.area <= width * height
            assert x >= 1 and x + width <= 479 and y >= 1 and y + height <= 269
            assert 0.3 * 270 < max(width, height) < 0.9 * 270
            for keypoints, count in ((person.jbd, 20), (person.coco, 17)):
                assert keypoints.shape == (count, 3) and keypoints.dtype == np.float64
                annotated = keypoints[keypoints[:, 2] > 0]
                assert (annotated[:, :2] >= (x - 1, y - 1)).all()
                assert (annotated[:, :2] <= (x + width + 1, y + height + 1)).all()
                assert not keypoints[keypoints[:, 2] == 0].any()


def test_number_of_people(frames):
    assert [len(frame.people) for frame in frames] == [1 + index % 3 for index in range(60)]


def test_most_keypoints_are_visible_and_some_are_hidden_or_left_out():
    frames = [draw_jumpers((3, index), SMALL) for index in range(80)]
    visible = np.stack([frame.people[0].jbd[:, 2] for frame in frames])
    assert (visible == 2).mean() > 0.9
    assert 0.05 < (visible < 2).any(axis=1).mean() < 0.3
    assert (visible == 1).any() and (visible == 0).any()


def test_both_sets_share_their_joints(frames):
    pairs = (('rwri', 'right_wrist'), ('lank', 'left_ankle'), ('lhip', 'left_hip'))
    for jump, coco in pairs:
        for person in frames[0].people:
            keypoints = person.jbd[JBD.names.index(jump)], person.coco[COCO.names.index(coco)]
            assert np.array_equal(*keypoints)


def test_bystanders_are_not_annotated():
    pairs = [
        [draw_jumpers(seed, SMALL, bystanders=bystanders) for bystanders in (True, False)]
        for seed in range(4)
    ]
    assert all(len(frame.people) == 1 for pair in pairs for frame in pair)
    assert any(not np.array_equal(one.image, other.image) for one, other in pairs)


def test_athlete_stands_out_from_the_background(frames):
    """Colours inside the box differ from those round it."""
    differences = []
    for frame in frames:
        person = frame.people[0]
        x, y = person.coco[[COCO.names.index('left_hip'), COCO.names.index('right_hip')], :2].mean(
            0
        )
        inside = frame.image[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3]
        border = frame.image[:, [0, -1]]
        differences.append(np.abs(inside.mean((0, 1)) - border.mean((0, 1))).max())
    assert np.median(differences) > 40


# The files


@pytest.mark.parametrize(
    ('layout', 'keypoints', 'annotation', 'images'),
    [
        ('jbd', JBD, 'annotations/{}_jump.json', 'images/{}'),
        ('coco', COCO, 'annotations/person_keypoints_{}2017.json', '{}2017'),
    ],
)
@pytest.mark.parametrize(('split', 'count'), [('train', 8), ('val', 3)])
def test_annotations_fit_the_pictures(sets, layout, keypoints, annotation, images, split, count):
    content = json.loads((sets / layout / annotation.format(split)).read_text())
    (category,) = content['categories']
    assert category['name'] == 'person' and category['keypoints'] == list(keypoints.names)
    limbs = [tuple(keypoints.names[end - 1] for end in limb) for limb in category['skeleton']]
    assert limbs == list(keypoints.limbs)
    assert len(content['images']) == count

    sizes = {}
    for image in content['images']:
        path = sets / layout / images.format(split) / image['file_name']
        assert cv2.imread(str(path)).shape == (image['height'], image['width'], 3) == (*SMALL, 3)
        sizes[image['id']] = image['width'], image['height']
    people = content['annotations']
    assert len(sizes) == count and min(sizes) >= 1
    assert len({person['id'] for person in people}) == len(people) >= count
    assert {person['image_id'] for person in people} == set(sizes)
    if layout == 'jbd':
        assert len(people) == count
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
    ('layout', 'annotation'),
    [('jbd', 'train_jump'), ('coco', 'person_keypoints_train2017')],
)
def test_cocos_tools_read_the_annotations(sets, layout, annotation, capsys):
    tools = pytest.importorskip('xtcocotools.coco', exc_type=ImportError)
    loaded = tools.COCO(str(sets / layout / 'annotations' / f'{annotation}.json'))
    assert len(loaded.getImgIds()) == 8
    people = loaded.loadAnns(loaded.getAnnIds(catIds=loaded.getCatIds(['person'])))
    assert len(people) == len(loaded.anns)


def test_files_hold_the_drawn_frame(sets):
    frame = draw_jumpers((0, 1, 1), SMALL, discipline='high_jump')
    path = sets / 'jbd/images/val/high_jump_03/high_jump_03_(00012).jpg'
    stored = cv2.imread(str(path))[..., ::-1].astype(int)
    assert np.abs(stored - frame.image).mean() < 8
    content = json.loads((sets / 'jbd/annotations/val_jump.json').read_text())
    assert content['images'][1]['file_name'] == 'high_jump_03/high_jump_03_(00012).jpg'
    points = np.reshape(content['annotations'][1]['keypoints'], (20, 3))
    assert np.allclose(points, frame.people[0].jbd, atol=0.00501)
    assert content['annotations'][1]['bbox'] == list(frame.people[0].box)


def read_table(path: Path) -> list[dict[str, str]]:
    comment, *lines = path.read_text().splitlines()
    assert comment.startswith('#')
    return list(csv.DictReader(lines, delimiter=';'))


def test_raw_layout_holds_what_the_converted_one_holds(sets):
    boxes = (sets / 'jbd-raw/bbox.csv').read_text().splitlines()
    assert boxes[0] == 'image_id, min_x, min_y, width, height'
    boxes = {line.split(',')[0]: [float(n) for n in line.split(',')[1:]] for line in boxes[1:]}
    unboxed = 0
    for split, count in (('train', 8), ('val', 3)):
        content = json.loads((sets / f'jbd/annotations/{split}_jump.json').read_text())
        rows = read_table(sets / f'jbd-raw/{split}.csv')
        assert len(rows) == count
        people = zip(rows, content['images'], content['annotations'], strict=True)
        for row, image, person in people:
            name = f'{row["event"]}/{row["event"]}_({int(row["frame_num"]):05d}).jpg'
            assert name == image['file_name']
            raw, converted = sets / 'jbd-raw' / name, sets / 'jbd/images' / split / name
            assert raw.read_bytes() == converted.read_bytes()
            values = [float(row[f'{joint}_{what}']) for joint in JBD.names for what in 'xys']
            assert values == person['keypoints']
            assert len(row) == 2 + 60
            box = boxes.get(Path(name).stem)
            unboxed += box is None
            assert box in (None, person['bbox'])
    assert unboxed == 1


def test_no_event_is_in_both_splits(sets):
    events = [
        {row['event'] for row in read_table(sets / f'jbd-raw/{s}.csv')} for s in ('train', 'val')
    ]
    assert all(events) and not events[0] & events[1]
    train, val = (
        {path.name for path in (sets / 'coco' / f'{s}2017').iterdir()} for s in ('train', 'val')
    )
    assert len(train) == 8 and len(val) == 3 and not train & val


def test_all_pictures_differ(sets):
    pictures = [data for name, data in contents(sets / 'jbd').items() if name.endswith('.jpg')]
    assert len(set(pictures)) == len(pictures) == 11


@pytest.mark.parametrize('layout', WRITERS)
def test_complete_folder_is_left_alone(sets, layout, monkeypatch):
    folder = sets / layout
    before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
    monkeypatch.setattr(layouts, 'draw_jumpers', lambda *_, **__: pytest.fail('drawn again'))
    WRITERS[layout](folder, **AMOUNT)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
    assert not any(path.name.startswith('.') for path in before)


@pytest.mark.parametrize('layout', WRITERS)
def test_interrupted_run_is_continued(sets, layout, tmp_path, monkeypatch):
    drawn = []

    def interrupted(*args, **kwargs):
        if len(drawn) == 5:
            raise KeyboardInterrupt
        drawn.append(args)
        return draw_jumpers(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(layouts, 'draw_jumpers', interrupted)
        with pytest.raises(KeyboardInterrupt):
            WRITERS[layout](tmp_path, **AMOUNT)
    assert not json.loads((tmp_path / 'jumpers.json').read_text())['complete']
    assert not {'annotations', 'train.csv'} & {
        path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob('*') if path.is_file()
    }
    WRITERS[layout](tmp_path, **AMOUNT)
    assert contents(tmp_path) == contents(sets / layout)


def test_lost_files_are_written_again(sets, tmp_path):
    write_jbd(tmp_path, **AMOUNT)
    for name in ('images/val/high_jump_03/high_jump_03_(00012).jpg', 'annotations/train_jump.json'):
        (tmp_path / name).unlink()
        write_jbd(tmp_path, **AMOUNT)
        assert contents(tmp_path) == contents(sets / 'jbd')


@pytest.mark.parametrize('other', [dict(seed=1), dict(size=(96, 128)), dict(train=6), dict(val=2)])
def test_other_settings_are_refused(sets, other):
    before = contents(sets / 'jbd')
    with pytest.raises(SegformerPlusPlusError, match='holds other jumpers') as error:
        write_jbd(sets / 'jbd', **(AMOUNT | other))
    assert str(sets / 'jbd') in str(error.value) and '\n' not in str(error.value)
    assert contents(sets / 'jbd') == before


def test_other_layout_is_refused(sets):
    with pytest.raises(SegformerPlusPlusError, match='layout=coco'):
        write_jbd(sets / 'coco', **AMOUNT)


@pytest.mark.parametrize(
    ('layout', 'name'),
    [('jbd', 'images'), ('jbd-raw', 'bbox.csv'), ('jbd-raw', 'high_jump_03'), ('coco', 'val2017')],
)
def test_foreign_files_are_refused(layout, name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(SegformerPlusPlusError, match='not ours'):
        WRITERS[layout](tmp_path, **AMOUNT)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(size=(95, 128)), 'size='),
        (dict(size=(1080, 1921)), 'size='),
        (dict(size=(128.0, 256)), 'size='),
        (dict(size=(128, 256, 3)), 'size='),
        (dict(train=-1), 'train=-1'),
        (dict(val=1.5), 'val=1.5'),
        (dict(seed=-1), 'seed=-1'),
        (dict(workers=0), 'workers=0'),
    ],
)
@pytest.mark.parametrize('write', WRITERS.values())
def test_wrong_values_are_named(tmp_path, write, wrong, message):
    with pytest.raises(SegformerPlusPlusError, match=message):
        write(tmp_path, **(AMOUNT | wrong))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(seed=-1), 'seed=-1'),
        (dict(seed='one'), "seed='one'"),
        (dict(seed=(0, -1)), 'seed='),
        (dict(people=0), 'people=0'),
        (dict(people=4), 'people=4'),
        (dict(people=1.0), 'people=1.0'),
        (dict(discipline='pole_vault'), "discipline='pole_vault'.*high_jump"),
        (dict(size=(64, 128)), 'size='),
    ],
)
def test_wrong_arguments_of_a_frame_are_named(arguments, message):
    with pytest.raises(SegformerPlusPlusError, match=message):
        draw_jumpers(**(dict(seed=0, size=SMALL) | arguments))


def test_command_line_with_two_workers_writes_the_same_bytes_as_one(sets, tmp_path):
    main = runpy.run_path(str(CLI))['main']
    arguments = ['--layout', 'coco', '--train', '8', '--val', '3', '--size', '120x200']
    assert main([str(tmp_path), *arguments, '--workers', '2']) == 0
    assert contents(tmp_path) == contents(sets / 'coco')


def test_command_line_says_what_is_wrong(sets, capsys):
    main = runpy.run_path(str(CLI))['main']
    assert main([str(sets / 'jbd'), '--seed', '9']) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and 'holds other jumpers' in errors[0]
    with pytest.raises(SystemExit):
        main([str(sets / 'jbd'), '--size', '128'])
    assert "'128' is no shape" in capsys.readouterr().err
