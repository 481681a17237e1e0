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


@pytest.fixture
def opened(jumpers):
    return open_fidelity(*jumpers, device='cpu', progress=False)


@pytest.mark.parametrize('strategy', ['hq', '2x2'])
def test_it_measures_what_the_test_of_mmpose_measures(jumpers, opened, strategy, tmp_path):
    metrics, samples = run_test(*jumpers, strategy, tmp_path)
    _, references = run_test(*jumpers, 'none', tmp_path)
    values = opened.measure(strategy)
    assert values['PCK@0.1'] == pytest.approx(100 * metrics['PCK@0.1'])
    assert values['PCK@0.05'] == pytest.approx(100 * metrics['PCK@0.05'])
    found, before = (
        np.concatenate([sample.pred_instances.keypoints for sample in each])
        for each in (samples, references)
    )
    seen = np.concatenate([sample.gt_instances.keypoints_visible for sample in samples]) > 0
    moved = np.sqrt(((found - before) ** 2).sum(axis=-1))
    assert values['shift'] == pytest.approx(moved[seen].mean(), rel=1e-6)
    assert values['shift'] > 0
    assert opened.drop(values) == pytest.approx(
        100 * run_test(*jumpers, 'none', tmp_path)[0]['PCK@0.05'] - values['PCK@0.05']
    )


def test_no_merging_moves_nothing(opened):
    values = opened.measure('none')
    assert values['shift'] == 0 and opened.drop(values) == 0
    assert opened.main_measure == 'PCK@0.05' and opened.num_images == 5


def test_a_subset(opened):
    whole = opened.measure('hq')
    parts = [opened.subset([index]).measure('hq')['shift'] for index in range(5)]
    annotated = [each.counted.sum() for each in opened._references()]
    assert np.average(parts, weights=annotated) == pytest.approx(whole['shift'], rel=1e-6)


def test_people_know_their_picture(opened):
    names = [str(path).rpartition('/')[2] for path in opened.pictures]
    assert len(set(names)) == 5  # a jumper each
    assert opened.subset([3, 1]).pictures == [opened.pictures[3], opened.pictures[1]]


def test_timing(opened):
    timings = opened.time({'none': 'none', 'hq': 'hq'}, rounds=2, warmup=0)
    assert all(len(each.seconds) == 2 for each in timings.values())
    assert opened.shape == (128, 96)


def test_images_are_one_person_each(jumpers):
    root = Config.fromfile(str(jumpers[0])).test_dataloader.dataset.data_root
    fidelity = open_fidelity(
        *jumpers, device='cpu', images=f'{root}/images/val', limit=2, progress=False
    )
    assert fidelity.num_images == 2 and not fidelity.has_truth
    assert len(set(fidelity.pictures)) == 2
    values = fidelity.measure('hq')
    assert list(values) == ['shift'] and fidelity.drop(values) == values['shift'] > 0


def test_detected_boxes_are_no_truth(jumpers, tmp_path, monkeypatch):
    root = Config.fromfile(str(jumpers[0])).test_dataloader.dataset.data_root
    with open(f'{root}/annotations/val_jump.json') as stream:
        content = json.load(stream)
    boxes = [
        dict(image_id=each['image_id'], category_id=1, bbox=each['bbox'], score=0.9)
        for each in content['annotations']
    ]
    (tmp_path / 'boxes.json').write_text(json.dumps(boxes))
    option = {'test_dataloader.dataset.bbox_file': str(tmp_path / 'boxes.json')}
    said = []
    monkeypatch.setattr(
        'segformer_plusplus.evaluation.fidelity.pose.print_log', lambda text, **_: said.append(text)
    )
    fidelity = open_fidelity(*jumpers, device='cpu', cfg_options=option, progress=False)
    assert len(said) == 1 and 'accuracy is left out' in said[0]
    assert not fidelity.has_truth and fidelity.main_measure == 'shift'
    assert fidelity.measure('none') == {'shift': 0}


@pytest.fixture
def annotations(jumpers, tmp_path):
    """Their content, and what writes another one and returns the option that names it."""
    root = Config.fromfile(str(jumpers[0])).test_dataloader.dataset.data_root

    def write(text):
        (tmp_path / 'own.json').write_text(text)
        return {'test_dataloader.dataset.ann_file': str(tmp_path / 'own.json')}

    with open(f'{root}/annotations/val_jump.json') as stream:
        return json.load(stream), write


def test_people_that_nobody_annotated(jumpers, opened, annotations, monkeypatch):
    content, write = annotations
    first = opened.num_images - 1
    for each in content['annotations'][:first]:
        each['keypoints'][2::3] = [0] * len(each['keypoints'][2::3])
    settings = dict(device='cpu', cfg_options=write(json.dumps(content)), progress=False)
    said = []
    monkeypatch.setattr(
        'segformer_plusplus.evaluation.fidelity.pose.print_log', lambda text, **_: said.append(text)
    )
    assert open_fidelity(*jumpers, **settings).has_truth and not said
    part = open_fidelity(*jumpers, limit=first, **settings)
    assert said == [f'the {first} people have no annotated keypoints: accuracy is left out']
    assert not part.has_truth and part.measure('none') == {'shift': 0}
    values = part.measure('hq')
    assert list(values) == ['shift'] and part.drop(values) == values['shift'] > 0


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
    rows = measure_fidelity(*jumpers, device='cpu', rounds=1, warmup=0, limit=2, progress=False)
    names = [row.name for row in rows]
    assert names[:2] == ['none', 'hq'] and 'downsampling' not in names
    with pytest.raises(SegformerPlusPlusError, match="preset 'downsampling': .*heatmap_size"):
        measure_fidelity(*jumpers, ['downsampling'], device='cpu', limit=2, progress=False)
