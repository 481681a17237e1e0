"""Leeds Sports Pose: its metainfo, and its converted files as mmpose reads and flips them."""

import numpy as np
import pytest

pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it

import segformer_plusplus  # noqa: F401  (must precede mmpose)

# isort: split
from mmengine.registry import init_default_scope
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.registry import DATASETS
from PIL import Image

from segformer_plusplus.pose import LeedsSportsDataset
from segformer_plusplus.pose.keypoints import LSP
from tools.dataset_converters.coco_files import Person, box_around, coco_file, write_json

NAMES = (
    'right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow '
    'right_shoulder left_shoulder left_elbow left_wrist neck head_top'
).split()
MIRRORED = [
    name.replace('left', '*').replace('right', 'left').replace('*', 'right') for name in NAMES
]


@pytest.fixture
def meta():
    return parse_pose_metainfo(LeedsSportsDataset.METAINFO)


def test_keypoints(meta):
    assert DATASETS.get('LeedsSportsDataset') is LeedsSportsDataset
    assert [meta['keypoint_id2name'][i] for i in range(14)] == NAMES == list(LSP.names)
    assert meta['num_keypoints'] == 14
    upper = [i for i in range(14) if not NAMES[i].endswith(('hip', 'knee', 'ankle'))]
    assert sorted(meta['upper_body_ids']) == upper
    assert sorted(meta['upper_body_ids'] + meta['lower_body_ids']) == list(range(14))
    np.testing.assert_array_equal(meta['dataset_keypoint_weights'], np.ones(14, np.float32))


def test_a_flip_swaps_left_and_right_and_nothing_else(meta):
    assert [NAMES[i] for i in meta['flip_indices']] == MIRRORED
    assert all(LSP.mirror(LSP.mirror(name)) == name for name in NAMES)


def test_limbs_are_a_body_in_one_piece(meta):
    assert all(len(limb) == 2 and set(limb) <= set(NAMES) for limb in LSP.limbs)
    limbs = {frozenset(limb) for limb in LSP.limbs}
    assert len(limbs) == len(LSP.limbs)
    assert {frozenset(map(LSP.mirror, limb)) for limb in limbs} == limbs
    reached = {'neck'}
    for _ in NAMES:
        reached |= {end for limb in limbs if limb & reached for end in limb}
    assert reached == set(NAMES)
    links = [tuple(NAMES[end] for end in link) for link in meta['skeleton_links']]
    assert links == list(LSP.limbs)


def test_colours_tell_left_from_right(meta):
    """The athlete's right is warm, left is cool; what is in, or leads to, the middle is neither."""

    def side(names):
        sides = {name.partition('_')[0] for name in names} & {'left', 'right'}
        return sides.pop() if len(sides) == 1 else 'middle'

    of = {side([name]): meta['keypoint_colors'][NAMES.index(name)].tolist() for name in NAMES}
    assert len({tuple(colour) for colour in of.values()}) == 3
    assert of['right'][0] == of['left'][1] == 255
    assert meta['keypoint_colors'].tolist() == [of[side([name])] for name in NAMES]
    assert meta['skeleton_link_colors'].tolist() == [of[side(limb)] for limb in LSP.limbs]


def test_mmpose_reads_and_flips_a_converted_tree(tmp_path):
    rng = np.random.default_rng()
    size = width, height = 90, 70
    points = rng.uniform(0, size, (5, 14, 2))
    annotated = rng.integers(0, 2, (5, 14), dtype=bool)
    annotated[:, :4] = True
    (tmp_path / 'images/val').mkdir(parents=True)
    people = []
    for n in range(5):
        Image.effect_noise(size, 60).convert('RGB').save(tmp_path / f'images/val/{n}.jpg')
        joints = tuple(
            (x, y, 2) if there else None
            for (x, y), there in zip(points[n].tolist(), annotated[n], strict=True)
        )
        box = box_around([point for point in joints if point], size)
        people.append(Person(f'{n}.jpg', size, joints, box, n + 1))
    write_json(tmp_path / 'annotations/val.json', coco_file(LSP, people))

    init_default_scope('mmpose')
    dataset = DATASETS.build(
        dict(
            type='LeedsSportsDataset',
            data_root=str(tmp_path),
            data_mode='topdown',
            ann_file='annotations/val.json',
            data_prefix=dict(img='images/val/'),
            test_mode=True,
            pipeline=[
                dict(type='CheckedLoadImage'),
                dict(type='GetBBoxCenterScale'),
                dict(type='RandomFlip', direction='horizontal', prob=1.0),
            ],
        )
    )
    assert len(dataset) == 5
    order = [NAMES.index(name) for name in MIRRORED]
    for n in range(5):
        info, flipped = dataset.get_data_info(n), dataset[n]
        there = annotated[n]
        np.testing.assert_array_equal(info['keypoints_visible'][0] > 0, there)
        np.testing.assert_allclose(info['keypoints'][0][there], points[n][there], rtol=1e-5)
        np.testing.assert_array_equal(flipped['keypoints_visible'][0] > 0, there[order])
        mirrored = points[n][order] * [-1, 1] + [width - 1, 0]
        there = there[order]
        np.testing.assert_allclose(flipped['keypoints'][0][there], mirrored[there], atol=1e-4)
