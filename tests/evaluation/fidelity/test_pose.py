"""PCK is that of the test of mmpose, and the shift of keypoints is their mean distance."""

import json

import numpy as np
import pytest
from mmengine.config import Config

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.evaluation.fidelity import measure_fidelity, open_fidelity

from .reference import run_test

pytest.importorskip('mmpose')
pytest.importorskip('xtcocotools')

QUIET = dict(device='cpu', progress=False)


@pytest.fixture(scope='module')
def opened(jumpers):
    return open_fidelity(*jumpers, **QUIET)


@pytest.fixture(scope='module')
def root(jumpers):
    return Config.fromfile(str(jumpers[0])).test_dataloader.dataset.data_root


@pytest.fixture
def annotations(root, tmp_path):
    """Their content, and what writes another one and returns the option that names it."""

    def write(text):
        (tmp_path / 'own.json').write_text(text)
        return {'test_dataloader.dataset.ann_file': str(tmp_path / 'own.json')}

    with open(f'{root}/annotations/val_jump.json') as stream:
        return json.load(stream), write


def test_it_measures_what_the_test_of_mmpose_measures(jumpers, opened, tmp_path):
    baseline, references = run_test(*jumpers, 'none', tmp_path)
    before = np.concatenate([sample.pred_instances.keypoints for sample in references])
    for strategy in ('hq', '2x2'):
        metrics, samples = run_test(*jumpers, strategy, tmp_path)
        values = opened.measure(strategy)
        for name in ('PCK@0.1', 'PCK@0.05'):
            assert values[name] == pytest.approx(100 * metrics[name])
        found = np.concatenate([sample.pred_instances.keypoints for sample in samples])
        seen = np.concatenate([sample.gt_instances.keypoints_visible for sample in samples]) > 0
        moved = np.sqrt(((found - before) ** 2).sum(axis=-1))
        assert values['shift'] == pytest.approx(moved[seen].mean(), rel=1e-6)
        assert values['shift'] > 0
        drop = 100 * baseline['PCK@0.05'] - values['PCK@0.05']
        assert opened.drop(values) == pytest.approx(drop)


def test_keypoints_that_nobody_annotated_do_not_count(jumpers, annotations, tmp_path):
    """Half of each person's, so that counting them all gives another number."""
    content, write = annotations
    for each in content['annotations']:
        each['keypoints'][2::6] = [0] * len(each['keypoints'][2::6])
    options = write(json.dumps(content))
    fidelity = open_fidelity(*jumpers, cfg_options=options, **QUIET)
    _, references = run_test(*jumpers, 'none', tmp_path, **options)
    metrics, samples = run_test(*jumpers, 'hq', tmp_path, **options)
    seen = np.concatenate([sample.gt_instances.keypoints_visible for sample in samples]) > 0
    assert 0.4 < seen.mean() < 0.6
    found, before = (
        np.concatenate([sample.pred_instances.keypoints for sample in each])
        for each in (samples, references)
    )
    moved = np.sqrt(((found - before) ** 2).sum(axis=-1))
    values = fidelity.measure('hq')
    assert values['shift'] == pytest.approx(moved[seen].mean(), rel=1e-6)
    assert abs(values['shift'] - moved.mean()) > 1e-3 * moved.mean()
    assert values['PCK@0.05'] == pytest.approx(100 * metrics['PCK@0.05'])


def test_no_merging_moves_nothing_and_timing_has_one_person(opened):
    values = opened.measure('none')
    assert values['shift'] == 0 and opened.drop(values) == 0
    assert opened.main_measure == 'PCK@0.05' and opened.num_images == 5
    timings = opened.time({'none': 'none', 'hq': 'hq'}, rounds=2, warmup=0)
    assert all(len(each.seconds) == 2 for each in timings.values())
    assert opened.shape == (128, 96)


def test_a_subset_knows_its_people_and_their_pictures(opened):
    whole = opened.measure('hq')
    parts = [opened.subset([index]).measure('hq')['shift'] for index in range(5)]
    annotated = [each.counted.sum() for each in opened._references()]
    assert np.average(parts, weights=annotated) == pytest.approx(whole['shift'], rel=1e-6)
    assert len({str(path).rpartition('/')[2] for path in opened.pictures}) == 5  # a jumper each
    assert opened.subset([3, 1]).pictures == [opened.pictures[3], opened.pictures[1]]


def test_images_are_one_person_each(jumpers, root):
    fidelity = open_fidelity(*jumpers, images=f'{root}/images/val', limit=2, **QUIET)
    assert fidelity.num_images == 2 and not fidelity.has_truth
    assert len(set(fidelity.pictures)) == 2
    assert fidelity.describe().startswith('2 people without ground truth; shift: mean distance')
    values = fidelity.measure('hq')
    assert list(values) == ['shift'] and fidelity.drop(values) == values['shift'] > 0


def test_detected_boxes_are_no_truth(jumpers, annotations, tmp_path, warnings):
    boxes = [
        dict(image_id=each['image_id'], category_id=1, bbox=each['bbox'], score=0.9)
        for each in annotations[0]['annotations']
    ]
    (tmp_path / 'boxes.json').write_text(json.dumps(boxes))
    option = {'test_dataloader.dataset.bbox_file': str(tmp_path / 'boxes.json')}
    fidelity = open_fidelity(*jumpers, cfg_options=option, **QUIET)
    assert warnings == ['detected boxes have no annotated keypoints: accuracy is left out']
    assert not fidelity.has_truth and fidelity.main_measure == 'shift'
    assert fidelity.measure('none') == {'shift': 0}


def test_people_that_nobody_annotated(jumpers, opened, annotations, warnings):
    content, write = annotations
    first = opened.num_images - 1
    for each in content['annotations'][:first]:
        each['keypoints'][2::3] = [0] * len(each['keypoints'][2::3])
    settings = dict(cfg_options=write(json.dumps(content)), **QUIET)
    whole = open_fidelity(*jumpers, **settings)
    assert whole.has_truth and not warnings
    with pytest.raises(SegformerPlusPlusError, match='none of these people has an annotated'):
        whole.subset([0]).measure('none')
    part = open_fidelity(*jumpers, limit=first, **settings)
    assert warnings == [f'the {first} people have no annotated keypoints: accuracy is left out']
    assert not part.has_truth and list(part.measure('hq')) == ['shift']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', r"own.json' of the test set \(test_dataloader.dataset\) is no JSON"),
        ('{"images": [], "annotations": []}', 'the test set of the config is empty'),
    ],
)
def test_annotations_of_nobody(jumpers, annotations, text, message):
    with pytest.raises(SegformerPlusPlusError, match=message):
        open_fidelity(*jumpers, device='cpu', cfg_options=annotations[1](text))


def test_fine_classes_are_for_segmentation(jumpers):
    with pytest.raises(SegformerPlusPlusError, match='fine_classes is for segmentation'):
        open_fidelity(*jumpers, device='cpu', fine_classes=['a'])


def test_a_strategy_that_the_head_cannot_take(jumpers):
    """Downsampling makes smaller heatmaps than the codec decodes."""
    rows = measure_fidelity(*jumpers, rounds=1, warmup=0, limit=2, **QUIET)
    names = [row.name for row in rows]
    assert names[:2] == ['none', 'hq'] and 'downsampling' not in names
    with (
        pytest.warns(FutureWarning, match="'strategies' is 'presets' now"),
        pytest.raises(SegformerPlusPlusError, match="preset 'downsampling': .*heatmap_size"),
    ):
        measure_fidelity(*jumpers, strategies=['downsampling'], limit=2, **QUIET)
