"""PCK at several thresholds, against counting by hand and against mmpose's metric."""

import warnings

import numpy as np
import pytest

pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it

import segformer_plusplus  # noqa: F401  (must precede mmpose)

# isort: split
from mmpose.evaluation.metrics import PCKAccuracy
from mmpose.registry import METRICS

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.pose import BoxPCK


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
