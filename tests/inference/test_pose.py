"""The PoseEstimator gives what mmpose's inference_topdown gives."""

import numpy as np
import pytest

pytest.importorskip('mmpose')

import segformer_plusplus  # noqa: F401  (must precede mmpose)

# isort: split
import cv2
from mmengine.config import Config
from mmpose.apis import inference_topdown

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.inference import PoseEstimator
from segformer_plusplus.inference.configs import check_codec_sizes
from segformer_plusplus.inference.pose import SkeletonPainter, check_boxes

from .test_sources import random_image
from .tiny import with_classes

BOXES = [[5, 4, 60, 80], [20.5, 10, 90, 99]]


@pytest.mark.parametrize('boxes', [None, BOXES[:1], BOXES])
@pytest.mark.parametrize('batch_size', [1, 8])
def test_the_keypoints_of_mmpose(pose, boxes, batch_size):
    image = random_image(100, 120)
    known = {} if boxes is None else {'array-0': boxes}
    estimator = PoseEstimator(*pose, device='cpu', batch_size=batch_size, boxes=known)
    people = estimator(image).pred_instances
    found = None if boxes is None else np.array(boxes, dtype=np.float32)
    expected = [each.pred_instances for each in inference_topdown(estimator.model, image, found)]
    assert people.keypoints.shape == (len(expected), 17, 2)
    for index, each in enumerate(expected):
        np.testing.assert_allclose(people.keypoints[index], each.keypoints[0], atol=1e-3)
        np.testing.assert_allclose(
            people.keypoint_scores[index], each.keypoint_scores[0], rtol=1e-4
        )


def test_a_config_of_classes_reads_no_other_picture(pose, tmp_path, monkeypatch):
    cfg = with_classes(Config.fromfile(pose[0]), 'mmpose')
    image, folder = random_image(100, 120), tmp_path / 'here'
    folder.mkdir()
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    cv2.imwrite(str(folder / 'a.png'), 255 - image)  # another one of this name
    monkeypatch.chdir(folder)
    found, expected = (
        PoseEstimator(config, pose[1], device='cpu')(given)
        for config, given in ((cfg, tmp_path / 'a.png'), (pose[0], image))
    )
    np.testing.assert_array_equal(found.pred_instances.keypoints, expected.pred_instances.keypoints)
    step = next(each for each in cfg.test_dataloader.dataset.pipeline if 'input_size' in each)
    step.input_size = (96, 128)
    with pytest.raises(SegformerPlusPlusError, match=r'TopdownAffine has input_size \(96, 128\)'):
        check_codec_sizes(cfg)


def test_people_of_several_pictures_share_a_batch(pose):
    images = [random_image(100, 120) for _ in range(3)]
    boxes = {'array-0': BOXES, 'array-2': BOXES[:1]}
    estimator = PoseEstimator(*pose, device='cpu', batch_size=4, boxes=boxes)
    sizes = []
    estimator.model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    samples = estimator(images)
    assert [len(sample.pred_instances.keypoints) for sample in samples] == [2, 1, 1]
    assert sizes == [4, 4]  # the second is that of the flip test


@pytest.mark.parametrize(
    'boxes, message',
    [
        ([[]], r'shape \(1, 0\)'),
        (None, r'shape \(\)'),
        ([[0, 0, 9, 9, 0.5]], r'shape \(1, 5\)'),
        ([[0, 0, 1e30, 1e30]], 'none in a picture'),
        ([[1, 2, 3]], r'shape \(1, 3\)'),
        ([[5, 5, 5, 9]], 'no area'),
        ([[0, 0, float('nan'), 9]], 'no area'),
        ('x', 'no numbers'),
    ],
)
def test_boxes_that_are_none(boxes, message):
    with pytest.raises(SegformerPlusPlusError, match=f'boxes of a.jpg.*{message}'):
        check_boxes('a.jpg', boxes)


def test_models_that_are_refused(pose, segmentation):
    with pytest.raises(SegformerPlusPlusError, match="default_scope 'mmseg'"):
        PoseEstimator(*segmentation)
    model = PoseEstimator(*pose, device='cpu').model
    names = PoseEstimator(model).keypoint_names
    assert names[:2] == ['nose', 'left_eye'] and len(names) == 17
    del model.cfg
    with pytest.raises(SegformerPlusPlusError, match='test pipeline'):
        PoseEstimator(model)


def test_only_keypoints_above_the_score_are_drawn(pose):
    image = np.full((100, 120, 3), 255, np.uint8)
    estimator = PoseEstimator(*pose, device='cpu')
    sample = estimator(image)
    sample.pred_instances.keypoint_scores[:] = 0.5
    painted = SkeletonPainter(estimator.meta, 0.3)(image, sample)
    without = SkeletonPainter(estimator.meta, 0.9)(image, sample)
    changed, changed_without = (np.any(each != image, axis=2).sum() for each in (painted, without))
    assert changed > changed_without  # the box is drawn in both
    assert painted.shape == image.shape
