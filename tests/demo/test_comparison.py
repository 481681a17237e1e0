"""What the page computes, without the page: against the models themselves."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segformer_plusplus import apply_token_merging
from segformer_plusplus.demo.comparison import (
    Comparer,
    Ratios,
    check_size,
    make_strategy,
    preset_ratios,
)
from segformer_plusplus.errors import SegformerPlusPlusError, TokenMergingError
from segformer_plusplus.inference import Segmenter
from segformer_plusplus.token_merging import build_token_merging
from segformer_plusplus.token_merging.config import PRESETS


@pytest.fixture
def comparer(segmenter) -> Comparer:
    return Comparer(segmenter)


@pytest.mark.parametrize('preset', PRESETS)
def test_the_masks_are_those_of_the_model(comparer, segmentation, picture, preset):
    image = comparer.read(picture)
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
    changed = (labels['none'] != labels[preset]).mean()
    assert result.share_changed == pytest.approx(changed)
    palette = comparer.segmenter.palette.astype(float)
    for shown, name in ((result.overlay, preset), (result.overlay_unmerged, 'none')):
        expected = np.rint(0.5 * image + 0.5 * palette[labels[name]])
        assert (np.abs(shown - expected).max(axis=-1) > 1).mean() == 0
    shares = {each.name: each.share for each in result.classes}
    assert sum(shares.values()) == pytest.approx(1)
    for index, name in enumerate(comparer.segmenter.classes):
        assert shares.get(name, 0) == pytest.approx((labels[preset] == index).mean())
    assert result.seconds > 0 and result.seconds_unmerged > 0
    assert result.shape == image.shape[:2] and result.merge_map.width > 0


def test_ratios_reach_the_model(comparer, picture, monkeypatch):
    seen = []

    def spy(model, strategy):
        seen.append(strategy)
        apply_token_merging(model, strategy)

    monkeypatch.setattr('segformer_plusplus.demo.comparison.apply_token_merging', spy)
    kv, q = np.random.default_rng().uniform(0, 0.75, 2).tolist()
    comparer(comparer.read(picture), 'hq', Ratios(kv, q))
    (strategy,) = seen
    assert [stage.kv and stage.kv.ratio for stage in strategy.stages] == [kv, kv, None, None]
    assert [stage.q and stage.q.ratio for stage in strategy.stages] == [None, None, q, q]


def test_presets_with_ratios():
    assert {name: found[0] for name in PRESETS if (found := preset_ratios(name))} == {
        'hq': Ratios(0.6, 0.8),
        'fast': Ratios(0.9, 0.9),
    }
    with pytest.raises(SegformerPlusPlusError, match="'2x2' takes no ratios"):
        make_strategy('2x2', Ratios(0.1, 0.1))
    with pytest.raises(TokenMergingError, match="'quick' is unknown"):
        make_strategy('quick')


@given(st.sampled_from(['hq', 'fast']), st.floats(0, 1), st.floats(0, 1))
def test_the_limits_are_those_of_the_strategy(preset, kv, q):
    _, limits = preset_ratios(preset)
    before = build_token_merging(preset).stages
    if kv <= limits.kv and q <= limits.q:
        make_strategy(preset, Ratios(kv, q))
    else:
        with pytest.raises(TokenMergingError, match='cannot be reached, at most'):
            make_strategy(preset, Ratios(kv, q))
    after = build_token_merging(preset).stages
    assert [s.kv and s.kv.ratio for s in after] == [s.kv and s.kv.ratio for s in before]


@pytest.mark.parametrize('ratio', [None, 'much', float('nan'), -0.1, True])
def test_a_ratio_that_is_none(ratio):
    with pytest.raises(TokenMergingError, match=r'is not a number in \[0, 1\]'):
        make_strategy('hq', Ratios(ratio, 0.5))


def test_an_image_that_is_too_large_is_not_decoded(tmp_path, picture, monkeypatch):
    width, height = Image.open(picture).size
    check_size(picture, width * height)
    monkeypatch.setattr(Image.Image, 'load', lambda self: pytest.fail('decoded'))
    with pytest.raises(SegformerPlusPlusError, match='128x96, 12,288 pixels: at most 12,287'):
        check_size(picture, width * height - 1)
    bomb = tmp_path / 'bomb.ppm'
    bomb.write_bytes(b'P6 99999 99999 255\n')
    with pytest.raises(SegformerPlusPlusError, match='too many pixels: at most'):
        check_size(bomb, 1000)


def test_images_that_cannot_be_taken(comparer, tmp_path, broken):
    text = tmp_path / 'text.png'
    text.write_text('no image')
    for path in (broken, text):
        with pytest.raises(SegformerPlusPlusError, match=rf'{path.stem}\.png cannot be read'):
            comparer.read(path)
    with pytest.raises(SegformerPlusPlusError, match='an image of 1x1 is too small'):
        comparer(np.zeros((1, 1, 3), dtype=np.uint8), 'fast')


def test_too_little_memory_says_what_to_do(comparer, picture, monkeypatch):
    def fail(model, inputs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr('segformer_plusplus.demo.comparison.predict_labels', fail)
    with pytest.raises(SegformerPlusPlusError, match='out of memory; take a smaller one'):
        comparer(comparer.read(picture), 'hq')


def test_one_computation_at_a_time(comparer, picture, monkeypatch):
    from segformer_plusplus.demo import comparison

    image, running, most, plain = comparer.read(picture), [0], [0], comparison.predict_labels
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
    expected = {name: comparer(image, name).overlay for name in ('fast', '2x2')}
    found: dict[str, np.ndarray] = {}

    def compute(name: str) -> None:
        found[name] = comparer(image, name).overlay

    threads = [threading.Thread(target=compute, args=[name]) for name in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    for name, overlay in expected.items():
        np.testing.assert_array_equal(found[name], overlay)


def test_a_limit_or_a_model_that_cannot_be(segmenter):
    with pytest.raises(SegformerPlusPlusError, match='max_pixels is 0'):
        Comparer(segmenter, 0)
    other = type('Other', (), dict(model=torch.nn.Linear(1, 1)))()
    with pytest.raises(SegformerPlusPlusError):
        Comparer(other)


def test_no_gradio_is_needed():
    code = 'import sys, segformer_plusplus.demo; print("gradio" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == 'False'
