"""Files of predictions say to other programs what was predicted."""

import json

import cv2
import mmcv
import numpy as np
import pytest
from mmengine.structures import InstanceData
from PIL import Image

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.inference.writing import (
    coco_results,
    keypoints_record,
    overlay,
    save_colour_mask,
    save_mask,
    save_picture,
)

RNG = np.random.default_rng()


@pytest.mark.parametrize('classes', [1, 2, 11, 150, 256])
def test_masks_have_the_labels_and_show_the_colours(tmp_path, classes):
    palette = RNG.integers(1, 256, (classes, 3), dtype=np.uint8)
    labels = RNG.integers(0, classes + (classes == 1), (30, 41))
    save_colour_mask(tmp_path / 'x.png', labels, palette)
    image = Image.open(tmp_path / 'x.png')
    assert image.mode == 'P'
    np.testing.assert_array_equal(np.asarray(image), labels)
    table = np.vstack([[0, 0, 0], palette]) if classes == 1 else palette
    np.testing.assert_array_equal(np.asarray(image.convert('RGB')), table[labels])
    read = mmcv.imread(str(tmp_path / 'x.png'), 'unchanged', backend='pillow')
    np.testing.assert_array_equal(read, labels)
    save_mask(tmp_path / 'grey.png', labels)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'grey.png'), -1), labels)


def test_masks_are_read_by_mmseg(tmp_path):
    transforms = pytest.importorskip('mmseg.datasets.transforms')
    labels = RNG.integers(0, 19, (30, 41))
    save_colour_mask(tmp_path / 'x.png', labels, RNG.integers(0, 256, (19, 3), dtype=np.uint8))
    results = dict(seg_map_path=str(tmp_path / 'x.png'), seg_fields=[], reduce_zero_label=False)
    found = transforms.LoadAnnotations()(results)['gt_seg_map']
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize('largest', [254, 255, 256, 5000])
def test_labels_beyond_a_palette_and_above_255(tmp_path, largest):
    labels = RNG.integers(0, largest + 1, (30, 41))
    labels[3, 4] = largest
    save_colour_mask(tmp_path / 'x.png', labels, RNG.integers(0, 256, (19, 3), dtype=np.uint8))
    image = Image.open(tmp_path / 'x.png')
    assert image.mode == ('P' if largest < 256 else 'I;16')
    np.testing.assert_array_equal(np.asarray(image), labels)


def test_a_picture_beside_room_for_a_legend(tmp_path):
    image, labels = RNG.integers(0, 256, (20, 30, 3), np.uint8), RNG.integers(0, 4, (20, 30))
    palette = RNG.integers(0, 256, (3, 3), dtype=np.uint8)
    wide = overlay(image, labels, palette, 0.3, beside=7)
    np.testing.assert_array_equal(wide[:, :30], overlay(image, labels, palette, 0.3))
    assert wide.shape == (20, 37, 3) and not wide[:, 30:].any()
    for each in (wide, wide[:, 3:20], wide[..., ::-1]):
        save_picture(tmp_path / 'x.png', each)
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'x.png')), each)
    with pytest.raises(SegformerPlusPlusError, match='opacity is 2'):
        overlay(image, labels, palette, 2)


def record_of(name, boxes, keypoints, scores):
    people = InstanceData(
        bboxes=np.float32(boxes),
        keypoints=np.float32(keypoints),
        keypoint_scores=np.float32(scores),
    )
    return keypoints_record(name, type('Sample', (), {'pred_instances': people}))


def ground_truth(names, people):
    """COCO's annotations of people (picture, 17, 2), each in a box around the keypoints."""
    annotations = []
    for index, points in enumerate(people):
        low, sides = points.min(0), np.ptp(points, axis=0)
        annotations.append(
            dict(
                id=index + 1, image_id=int(names[index]), category_id=1, iscrowd=0,
                num_keypoints=17, area=float(sides.prod()), bbox=[*low.tolist(), *sides.tolist()],
                keypoints=np.column_stack([points, np.full(17, 2)]).ravel().tolist(),
            )
        )  # fmt: skip
    return dict(
        images=[dict(id=int(name), width=640, height=480) for name in names],
        annotations=annotations,
        categories=[dict(id=1, name='person', keypoints=[], skeleton=[])],
    )


@pytest.mark.parametrize('moved, low, high', [(0, 0.999, 1), (40, 0.05, 0.95), (400, 0, 0.001)])
def test_coco_results_are_what_cocoeval_measures(tmp_path, moved, low, high):
    pytest.importorskip('xtcocotools')
    from xtcocotools.coco import COCO
    from xtcocotools.cocoeval import COCOeval

    names = [f'{n:012d}' for n in RNG.choice(10**6, 8, replace=False)]
    people = RNG.uniform(60, 460, (8, 17, 2)).round(1)
    noise = RNG.uniform(-moved, moved, people.shape)
    boxes = np.concatenate([people.min(1), people.max(1)], axis=1)[:, None]
    records = [
        record_of(f'val/{name}.jpg', box, points[None], RNG.uniform(0.3, 1, (1, 17)))
        for name, box, points in zip(names, boxes, people + noise, strict=True)
    ]
    (tmp_path / 'truth.json').write_text(json.dumps(ground_truth(names, people)))
    (tmp_path / 'results.json').write_text(json.dumps(coco_results(records)))
    truth = COCO(str(tmp_path / 'truth.json'))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / 'results.json')), 'keypoints')
    evaluation.params.useSegm = None
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert low <= evaluation.stats[0] <= high


def test_coco_results_have_the_scores_and_boxes_of_mmpose(tmp_path):
    metrics = pytest.importorskip('mmpose.evaluation.metrics')
    pytest.importorskip('xtcocotools')
    scores = RNG.uniform(0, 0.6, (5, 17)).round(4)
    scores[4] = 0.1  # none counts
    points = RNG.uniform(-5, 200, (5, 17, 2)).round(2)
    boxes = np.tile(RNG.uniform(0, 50, (5, 2)).round(2), 2) + [0, 0, 70, 99]
    metric = metrics.CocoMetric(format_only=True, outfile_prefix=str(tmp_path / 'x'))
    metric.coco = object()
    metric.dataset_meta = dict(num_keypoints=17, sigmas=np.full(17, 0.05), dataset_name='coco')
    for index in range(5):
        each = slice(index, index + 1)
        people = dict(keypoints=points[each], keypoint_scores=scores[each], bboxes=boxes[each])
        sample = dict(id=index, img_id=index + 1, pred_instances=people, gt_instances={})
        metric.process([], [sample])
    metric.compute_metrics(metric.results)
    expected = json.loads((tmp_path / 'x.keypoints.json').read_text())
    found = coco_results(
        [
            record_of(f'{n}.png', boxes[n : n + 1], points[n : n + 1], scores[n : n + 1])
            for n in range(5)
        ]
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.pop('file_name') == f'{theirs["image_id"] - 1}.png'
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            np.testing.assert_allclose(ours[key], value, atol=2e-2 if key == 'bbox' else 1e-3)


@pytest.mark.parametrize(
    'names, ids',
    [
        (['000000000139.jpg', 'b/000000000285.png'], [139, 285]),
        (['COCO_val2014_000000000042.jpg'], [42]),
        (['a/000000000139.jpg', 'b/000000000139.jpg'], [1, 2]),
        (['000000000139.jpg', 'mine.jpg'], [1, 2]),
        (['139.jpg', '20240131120000.jpg'], [1, 2]),
        (['clip.avi/000000', 'clip.avi/000001'], [1, 2]),
        (['x.jpg', 'x.jpg', 'nobody.jpg', 'y.jpg'], [1, 2, 4]),
    ],
)
def test_numbers_of_pictures(names, ids):
    def people(name):
        amount = int('nobody' not in name)
        return np.zeros((amount, 4)), np.zeros((amount, 3, 2)), np.zeros((amount, 3))

    results = coco_results([record_of(name, *people(name)) for name in names])
    assert [each['image_id'] for each in results] == ids
    assert [each['file_name'] for each in results] == [n for n in names if n != 'nobody.jpg']
