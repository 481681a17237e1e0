"""PCK at several thresholds, of the box and the torso, against counting by hand and mmpose."""

import warnings

import numpy as np
import pytest

pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it

import segformer_plusplus  # noqa: F401  (must precede mmpose)

# isort: split
from mmpose.evaluation.metrics import PCKAccuracy
from mmpose.registry import METRICS

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.pose import BoxPCK, TorsoPCK


def sample(predicted, truth, visible, box):
    return dict(
        pred_instances=dict(keypoints=np.asarray(predicted, float)[None]),
        gt_instances=dict(
            keypoints=np.asarray(truth, float)[None],
            keypoints_visible=np.asarray(visible, float)[None],
            bboxes=np.asarray([box], float),
        ),
    )


def evaluate(metric, samples):
    metric.process([{}] * len(samples), samples)
    return metric.evaluate(len(samples))


def test_thresholds_by_hand():
    # the longer side of the box is 100: thresholds of 10 and 5 pixels; distances of 4, 8, 12, 5.1
    truth = [(50, 50)] * 5
    predicted = [(50, 54), (50, 58), (50, 62), (53, 54.1), (0, 0)]
    samples = [sample(predicted, truth, [1, 1, 1, 1, 0], (0, 0, 40, 100))]
    assert evaluate(BoxPCK(), samples) == {'PCK@0.1': 3 / 4, 'PCK@0.05': 1 / 4}


def test_equal_to_mmpose_at_each_threshold():
    rng = np.random.default_rng()
    samples = []
    for _ in range(20):
        truth = rng.uniform(0, 200, (20, 2))
        predicted = truth + rng.normal(0, 15, (20, 2))
        corner, size = rng.uniform(0, 50, 2), rng.uniform(60, 200, 2)
        box = (*corner, *(corner + size))
        samples.append(sample(predicted, truth, rng.integers(0, 2, 20), box))
    ours = evaluate(BoxPCK((0.2, 0.1, 0.05)), samples)
    assert list(ours) == ['PCK@0.2', 'PCK@0.1', 'PCK@0.05']
    assert ours['PCK@0.2'] > ours['PCK@0.1'] > ours['PCK@0.05'] > 0
    for threshold in (0.2, 0.1, 0.05):
        theirs = evaluate(PCKAccuracy(thr=threshold, prefix='p'), samples)
        assert ours[f'PCK@{threshold:g}'] == pytest.approx(theirs['p/PCK'])


def test_built_from_a_config_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        metric = METRICS.build(dict(type='BoxPCK', thresholds=[0.1], _scope_='mmpose'))
    assert metric.thresholds == BoxPCK(0.1).thresholds == {'PCK@0.1': 0.1}
    assert evaluate(BoxPCK(prefix='jbd'), [sample([(0, 0)], [(0, 0)], [1], (0, 0, 9, 9))]) == {
        'jbd/PCK@0.1': 1.0,
        'jbd/PCK@0.05': 1.0,
    }


@pytest.mark.parametrize(
    'thresholds',
    [(), (0.1, 0), -0.1, (0.1, 0.1), '0.1', ('0.1',), float('nan'), (0.1, 0.1 + 1e-12)],
    ids=str,
)
def test_thresholds_that_mean_nothing_are_refused(thresholds):
    with pytest.raises(SegformerPlusPlusError, match='thresholds='):
        BoxPCK(thresholds)


def test_nothing_to_measure_is_an_error():
    with pytest.raises(SegformerPlusPlusError, match='no keypoint is annotated'):
        evaluate(BoxPCK(), [sample([(0, 0)], [(0, 0)], [0], (0, 0, 9, 9))])


META = dict(keypoint_name2id={f'k{i}': i for i in range(12)} | dict(left_shoulder=12, right_hip=13))


def torso(*arguments, meta=META, **options):
    metric = TorsoPCK(*arguments, **options)
    metric.dataset_meta = meta
    return metric


def people(rng, count=20):
    """Random people, annotated in part; boxes that say nothing about the torso."""
    truth = rng.uniform(0, 200, (count, 14, 2))
    predicted = truth + rng.normal(0, 15, truth.shape)
    visible = rng.random((count, 14)) < 0.8
    visible[0] = True
    return predicted, truth, visible


def samples_of(predicted, truth, visible, boxes=None):
    boxes = [(0, 0, 9, 9)] * len(truth) if boxes is None else boxes
    return [sample(*each) for each in zip(predicted, truth, visible, boxes, strict=True)]


def test_torso_pck_counts_by_hand():
    predicted, truth, visible = people(np.random.default_rng())
    lengths = np.linalg.norm(truth[:, 12] - truth[:, 13], axis=1)
    counted = visible & visible[:, 12:].all(axis=1, keepdims=True)
    distances = np.linalg.norm(predicted - truth, axis=2) / lengths[:, None]
    expected = {
        f'tPCK@{threshold:g}': np.mean(
            [(distances[there, k] < threshold).mean() for k, there in enumerate(counted.T)]
        )
        for threshold in (0.2, 0.1, 0.5)
    }
    found = evaluate(torso((0.2, 0.1, 0.5)), samples_of(predicted, truth, visible))
    assert found == pytest.approx(expected)
    assert list(evaluate(torso(), samples_of(predicted, truth, visible))) == ['tPCK@0.2']


def test_torso_pck_is_mmposes_where_the_torso_is_the_box():
    predicted, truth, visible = people(np.random.default_rng())
    visible[:, 12:] = True
    lengths = np.linalg.norm(truth[:, 12] - truth[:, 13], axis=1)
    samples = samples_of(predicted, truth, visible, [(0, 0, 0, length) for length in lengths])
    theirs = evaluate(PCKAccuracy(thr=0.3, prefix='p'), samples)['p/PCK']
    assert evaluate(torso(0.3), samples) == {'tPCK@0.3': pytest.approx(theirs)}
    assert evaluate(BoxPCK(0.3), samples) == {'PCK@0.3': pytest.approx(theirs)}


@pytest.mark.parametrize('end', [12, 13, 'length'])
def test_people_without_a_torso_do_not_count(end):
    predicted, truth, visible = people(np.random.default_rng())
    visible[:, 12:] = True
    alone = evaluate(torso(), samples_of(predicted[:9], truth[:9], visible[:9]))
    if end == 'length':
        truth[9:, 12] = truth[9:, 13]
    else:
        visible[9:, end] = False
    assert evaluate(torso(), samples_of(predicted, truth, visible)) == alone
    with pytest.raises(SegformerPlusPlusError, match='tPCK: nobody .* both ends of the torso'):
        evaluate(torso(), samples_of(predicted[9:], truth[9:], visible[9:]))


def test_other_ends_of_the_torso():
    predicted, truth, visible = people(np.random.default_rng())
    ids = np.random.default_rng().permutation(14)
    meta = dict(keypoint_name2id={f'k{new}': int(old) for new, old in enumerate(ids)})
    names = f'k{ids.tolist().index(12)}', f'k{ids.tolist().index(13)}'
    samples = samples_of(predicted, truth, visible)
    assert evaluate(torso(torso=list(names), meta=meta), samples) == evaluate(torso(), samples)
    assert list(evaluate(torso(prefix='lsp'), samples)) == ['lsp/tPCK@0.2']


@pytest.mark.parametrize('meta', [None, {}, dict(keypoint_name2id=dict(left_shoulder=0, hip=1))])
def test_a_torso_that_the_dataset_does_not_have(meta):
    has = 'hip$' if meta else ''
    unknown = 'right_hip' if meta else 'left_shoulder'
    with pytest.raises(
        SegformerPlusPlusError, match=f"has no keypoint '{unknown}'; it has .*{has}"
    ):
        evaluate(torso(meta=meta), samples_of(*people(np.random.default_rng())))


@pytest.mark.parametrize('torso', ['left_shoulder', ('neck',), ('neck', 'neck'), ('a', 'b', 'c')])
def test_a_torso_has_two_ends(torso):
    with pytest.raises(SegformerPlusPlusError, match='torso=.*give the names of two keypoints'):
        TorsoPCK(torso=torso)


def test_thresholds_of_the_torso_that_mean_nothing_are_refused():
    with pytest.raises(SegformerPlusPlusError, match='thresholds='):
        METRICS.build(dict(type='TorsoPCK', thresholds=[0.2, 0], _scope_='mmpose'))
