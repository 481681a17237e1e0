"""What the page computes, without the page: against the models themselves."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from segformer_plusplus import apply_token_merging
from segformer_plusplus.demo import comparison, open_comparer
from segformer_plusplus.demo.comparison import WAITING
from segformer_plusplus.demo.segmentation import SegmentationComparer
from segformer_plusplus.demo.strategies import Ratios
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.inference import PoseEstimator, Segmenter
from segformer_plusplus.inference.pose import SkeletonPainter
from segformer_plusplus.token_merging.config import PRESETS

from .conftest import all_at_once


@pytest.mark.parametrize('preset', PRESETS)
def test_the_masks_are_those_of_the_model(comparer, segmentation, picture, preset):
    image = comparer.read(picture).image
    np.testing.assert_array_equal(image, np.asarray(Image.open(picture)))
    result = comparer(image, preset)
    labels = {}
    for name in ('none', preset):
        # another way to the same numbers: the segmentor's own, of an image that keeps its size
        alone = Segmenter(
            *segmentation,
            token_merging=name,
            device='cpu',
            cfg_options={'test_dataloader.dataset.pipeline': [dict(type='PackSegInputs')]},
        )
        labels[name] = alone.labels(np.ascontiguousarray(image[..., ::-1]))
    changed = labels['none'] != labels[preset]
    outcome = result.outcome
    assert outcome.said == f'{changed.mean():.2%} of the pixels change their class'
    np.testing.assert_array_equal((outcome.changed == (255, 40, 40)).all(axis=-1), changed)
    palette = alone.palette.astype(float)
    for shown, name in ((outcome.merged, preset), (outcome.unmerged, 'none')):
        expected = np.rint(0.5 * image + 0.5 * palette[labels[name]])
        assert (np.abs(shown - expected).max(axis=-1) > 1).mean() == 0
    shares = {each.name: each.value for each in outcome.legend}
    counts = {n: (labels[preset] == i).mean() for i, n in enumerate(alone.classes)}
    assert shares == {name: f'{share:.1%}' for name, share in counts.items() if share}
    assert result.seconds > 0 and result.seconds_unmerged > 0
    assert len(result.stages) == comparer.num_stages == 4
    for number, stage in enumerate(result.stages, 1):
        for said, drawn in stage.items():
            assert said.startswith(f'stage {number}, ') and drawn.shape == image.shape


@pytest.mark.parametrize('preset', ['none', 'fast', '2x2', 'weighted'])
def test_the_skeletons_are_those_of_the_estimator(pose_comparer, pose, picture, preset):
    image = pose_comparer.read(picture).image
    result = pose_comparer(image, preset)
    points, painted = {}, {}
    for name in ('none', preset):
        alone = PoseEstimator(*pose, token_merging=name, device='cpu')
        bgr = np.ascontiguousarray(image[..., ::-1])
        sample = alone(bgr)
        points[name] = np.asarray(sample.pred_instances.keypoints)[0]
        painted[name] = SkeletonPainter(alone.meta, 0)(bgr, sample)[..., ::-1]
    moved = np.linalg.norm(points[preset] - points['none'], axis=-1)
    outcome = result.outcome
    np.testing.assert_array_equal(outcome.unmerged, painted['none'])
    np.testing.assert_array_equal(outcome.merged, painted[preset])
    assert f'move by {moved.mean():.2f} pixels' in outcome.said
    expected = {
        name: f'{each:.1f} px' for name, each in zip(alone.keypoint_names, moved, strict=True)
    }
    assert {each.name: each.value for each in outcome.legend} == expected
    assert outcome.legend[0].value == f'{moved.max():.1f} px'
    marked = (outcome.changed == (255, 40, 40)).all(axis=-1)
    for x, y in np.rint(points[preset]).astype(int):
        if 0 <= x < image.shape[1] and 0 <= y < image.shape[0]:
            assert marked[y, x]
    seen = next(iter(result.stages[0].values()))
    assert seen.shape == (64, 48, 3)  # what the network sees: the picture, cut out


def test_ratios_reach_the_model(comparer, picture, monkeypatch):
    seen = []

    def spy(model, strategy):
        seen.append(strategy)
        apply_token_merging(model, strategy)

    monkeypatch.setattr('segformer_plusplus.demo.comparison.apply_token_merging', spy)
    kv, q = np.random.default_rng().uniform(0, 0.75, 2).tolist()
    comparer(comparer.read(picture).image, 'hq', Ratios(kv, q))
    (strategy,) = seen
    assert [stage.kv and stage.kv.ratio for stage in strategy.stages] == [kv, kv, None, None]
    assert [stage.q and stage.q.ratio for stage in strategy.stages] == [None, None, q, q]


def test_an_image_that_is_too_small(comparer):
    with pytest.raises(SegformerPlusPlusError, match='an image of 1x1 is too small'):
        comparer(np.zeros((1, 1, 3), dtype=np.uint8), 'fast')


def test_too_little_memory_says_what_to_do(comparer, picture, monkeypatch):
    def fail(model, inputs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr('segformer_plusplus.demo.comparison.predict_labels', fail)
    with pytest.raises(SegformerPlusPlusError, match='out of memory; take a smaller one'):
        comparer(comparer.read(picture).image, 'hq')


def test_one_computation_at_a_time(comparer, picture, monkeypatch):
    image, running, most, plain = comparer.read(picture).image, [0], [0], comparison.predict_labels
    counting = threading.Lock()

    def counted(model, inputs):
        with counting:
            running[0] += 1
            most[0] = max(most[0], running[0])
        labels = plain(model, inputs)
        with counting:
            running[0] -= 1
        return labels

    monkeypatch.setattr(comparison, 'predict_labels', counted)
    expected = {name: comparer(image, name).outcome.merged for name in ('fast', '2x2')}
    found: dict[str, np.ndarray] = {}

    def compute(name: str) -> None:
        found[name] = comparer(image, name).outcome.merged

    threads = [threading.Thread(target=compute, args=[name]) for name in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    for name, overlay in expected.items():
        np.testing.assert_array_equal(found[name], overlay)


def test_twenty_at_once(comparer, picture, monkeypatch):
    """Those who find a place get their own result, the others a sentence; then there are places."""
    image, gate, plain = comparer.read(picture).image, threading.Event(), comparison.predict_labels

    def waits(model, inputs):
        assert gate.wait(60)
        return plain(model, inputs)

    expected = {name: comparer(image, name).outcome.merged for name in ('fast', 'none')}
    monkeypatch.setattr(comparison, 'predict_labels', waits)
    found: list[tuple[str, np.ndarray]] = []
    refused: list[str] = []

    def compute(name: str) -> None:
        try:
            found.append((name, comparer(image, name).outcome.merged))
        except SegformerPlusPlusError as error:
            refused.append(str(error))

    all_at_once(compute, ['fast', 'none'] * 10, refused, 20 - WAITING - 1, gate)
    assert len(found) == WAITING + 1 and len(refused) == 20 - WAITING - 1
    assert set(refused) == {'8 comparisons of others wait already: press Compare again in a moment'}
    for name, overlay in found:
        np.testing.assert_array_equal(overlay, expected[name])
    compute('fast')
    assert len(found) == WAITING + 2


def test_a_limit_or_a_model_that_cannot_be(segmentation, monkeypatch):
    config, checkpoint = Config.fromfile(segmentation[0]), segmentation[1]
    with pytest.raises(SegformerPlusPlusError, match='max_pixels is 0'):
        open_comparer(config, checkpoint, 'cpu', 0)
    segmenter = Segmenter(*segmentation, device='cpu')
    segmenter.model = torch.nn.Linear(1, 1)
    with pytest.raises(SegformerPlusPlusError):
        SegmentationComparer(segmenter)
    config.default_scope = 'mmdet'
    with pytest.raises(SegformerPlusPlusError, match="'mmdet'; expected one of mmseg, mmpose"):
        open_comparer(config, checkpoint)


def test_a_model_of_mmseg_alone(segmentation, comparer, picture):
    """Its backbone, which nobody has patched yet, gives what ours gives."""
    config = Config.fromfile(segmentation[0])
    config.model.backbone.type = 'MixVisionTransformer'
    del config.model.backbone['token_merging']
    image = comparer.read(picture).image
    found = open_comparer(config, segmentation[1], 'cpu')(image, 'hq')
    assert found.outcome.said == comparer(image, 'hq').outcome.said
    assert len(found.stages) == 4


def test_no_gradio_is_needed():
    code = 'import sys, segformer_plusplus.demo; print("gradio" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == 'False'
