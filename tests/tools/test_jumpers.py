"""Tests synthetic jumpers: human joints, left and right where they belong."""

import numpy as np
import pytest

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.pose.keypoints import COCO, JBD
from tools.dataset_generators.jumper_pose import (
    DISCIPLINES,
    LIMB_RANGES,
    TRUNK_RANGES,
    Pose,
    sample_pose,
)
from tools.dataset_generators.jumper_skeleton import assemble, view
from tools.dataset_generators.jumpers import draw_jumpers

SMALL = 120, 200
BONES = [
    (side + bone[:3], side + bone[3:])
    for side in 'rl'
    for bone in 'shoelb elbwri wrihan hipkne kneank ankhee anktoe heetoe'.split()
]


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
def frames():
    return [draw_jumpers((0, 0, index), (270, 480), 1 + index % 3) for index in range(60)]


# The skeleton


def test_all_angles_are_within_human_ranges_and_far_apart():
    sampled = poses(600)
    for pose in sampled:
        for angles, ranges in (
            (pose.trunk, TRUNK_RANGES),
            (pose.right, LIMB_RANGES),
            (pose.left, LIMB_RANGES),
        ):
            assert angles.keys() == ranges.keys()
            for name, (low, high) in ranges.items():
                assert low <= angles[name] <= high, name
    knees = [pose.right['knee'] for pose in sampled]
    shoulders = [pose.left['shoulder'] for pose in sampled]
    assert min(knees) < 5 and max(knees) > 110
    assert min(shoulders) < -40 and max(shoulders) > 150
    assert max(pose.right['hip'] - pose.left['hip'] for pose in sampled) > 90, 'as in a step'


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


def test_the_arguments_alone_decide():
    np.random.seed(0)
    first = draw_jumpers(7, SMALL, 2)
    np.random.seed(1)
    second, other = draw_jumpers(7, SMALL, 2), draw_jumpers(8, SMALL, 2)
    assert np.array_equal(first.image, second.image)
    assert not np.array_equal(first.image, other.image)
    for one, same, another in zip(first.people, second.people, other.people, strict=True):
        assert np.array_equal(one.jbd, same.jbd) and np.array_equal(one.coco, same.coco)
        assert (one.box, one.area) == (same.box, same.area)
        assert not np.array_equal(one.jbd, another.jbd)


@pytest.mark.parametrize('size', [(96, 128), (97, 131), (1080, 128), (96, 1920), (1080, 1920)])
def test_any_size(size):
    frame = draw_jumpers(1, size, 3)
    assert frame.image.shape == (*size, 3) and frame.image.dtype == np.uint8
    for person in frame.people:
        x, y, width, height = person.box
        assert x >= 0 and y >= 0 and x + width <= size[1] and y + height <= size[0]


def test_keypoints_lie_in_the_box_and_the_box_in_the_frame(frames):
    for index, frame in enumerate(frames):
        assert len(frame.people) == 1 + index % 3
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
