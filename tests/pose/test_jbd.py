"""Jump-Broadcast's metainfo against what is published about the data set."""

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it

import segformer_plusplus  # noqa: F401  (must precede mmpose)

# isort: split
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.registry import DATASETS

from segformer_plusplus.pose import JumpBroadcastDataset
from segformer_plusplus.pose.keypoints import COCO

NAMES = (
    'head neck rsho relb rwri rhan lsho lelb lwri lhan '
    'rhip rkne rank rhee rtoe lhip lkne lank lhee ltoe'
).split()
CHAINS = (
    'head neck',
    'neck rsho relb rwri rhan',
    'neck lsho lelb lwri lhan',
    'rsho rhip rkne rank rhee rtoe',
    'lsho lhip lkne lank lhee ltoe',
)


@pytest.fixture
def meta():
    return parse_pose_metainfo(JumpBroadcastDataset.METAINFO)


def test_keypoints(meta):
    assert DATASETS.get('JumpBroadcastDataset') is JumpBroadcastDataset
    assert [meta['keypoint_id2name'][i] for i in range(20)] == NAMES
    assert meta['num_keypoints'] == 20
    assert meta['upper_body_ids'] == list(range(10))
    assert meta['lower_body_ids'] == list(range(10, 20))
    np.testing.assert_array_equal(meta['sigmas'], np.full(20, 0.1, np.float32))
    np.testing.assert_array_equal(meta['dataset_keypoint_weights'], np.ones(20, np.float32))


def test_a_flip_swaps_left_and_right_and_nothing_else(meta):
    assert [NAMES[i] for i in meta['flip_indices']] == [
        name if name in ('head', 'neck') else {'r': 'l', 'l': 'r'}[name[0]] + name[1:]
        for name in NAMES
    ]
    twice = np.asarray(meta['flip_indices'])[meta['flip_indices']]
    np.testing.assert_array_equal(twice, np.arange(20))


def test_limbs(meta):
    expected = [
        (NAMES.index(a), NAMES.index(b))
        for chain in map(str.split, CHAINS)
        for a, b in pairwise(chain)
    ]
    assert [tuple(link) for link in meta['skeleton_links']] == expected


def test_colours_can_be_seen_and_tell_left_from_right(meta):
    for colours in (meta['keypoint_colors'], meta['skeleton_link_colors']):
        assert (colours.max(axis=1) > 200).all(), 'too dark for a photograph'
        assert (np.ptp(colours.astype(int), axis=1) > 100).all(), 'too grey for a photograph'
    of = dict(zip(NAMES, map(tuple, meta['keypoint_colors']), strict=True))
    assert of['lsho'] != of['rsho'] != of['head']
    assert len({colour for name, colour in of.items() if name[0] == 'l'}) == 1
    links = dict(zip(meta['skeleton_links'], map(tuple, meta['skeleton_link_colors']), strict=True))
    assert links[(NAMES.index('lkne'), NAMES.index('lank'))] == of['lkne']
    assert links[(NAMES.index('head'), NAMES.index('neck'))] == of['neck']


def test_the_paper_is_named_as_in_mmpose():
    paper = JumpBroadcastDataset.METAINFO['paper_info']
    assert set(paper) <= {'author', 'title', 'container', 'year', 'homepage'}
    assert 'Jump' in paper['title']


def test_coco_keypoints_are_mmposes():
    meta = parse_pose_metainfo(DATASETS.get('CocoDataset').METAINFO)
    assert tuple(meta['keypoint_id2name'][i] for i in range(17)) == COCO.names
    assert [COCO.names[i] for i in meta['flip_indices']] == list(map(COCO.mirror, COCO.names))
    links = {frozenset((COCO.names[a], COCO.names[b])) for a, b in meta['skeleton_links']}
    assert links == set(map(frozenset, COCO.limbs))
    assert {COCO.names[i] for i in meta['upper_body_ids']} == COCO.upper


def test_colours_tell_left_from_right(meta):
    """The athlete's right is warm, left is cool; what is in, or leads to, the middle is neither."""
    sides = [name[0] if name not in ('head', 'neck') else 'middle' for name in NAMES]
    colours = {side: meta['keypoint_colors'][sides.index(side)].tolist() for side in set(sides)}
    assert len({tuple(colour) for colour in colours.values()}) == 3
    assert meta['keypoint_colors'].tolist() == [colours[side] for side in sides]
    assert colours['r'][0] == colours['l'][1] == 255
    links = [{sides[end] for end in link} - {'middle'} for link in meta['skeleton_links']]
    assert meta['skeleton_link_colors'].tolist() == [
        colours[link.pop() if len(link) == 1 else 'middle'] for link in links
    ]
