"""What a patched model computes: as before without merging, as our backbone with merging."""

import pytest
import torch
from checkpoints.models import difference

from segformer_plusplus import apply_token_merging
from segformer_plusplus.mit import cpu, ffn as mix_ffn
from segformer_plusplus.token_merging import PRESETS

from .models import (
    BOTH,
    CASES,
    every_case,
    every_host,
    mmseg_segmentor,
    ours_with_weights_of,
    same_eps,
)

STRATEGIES = [*PRESETS, BOTH]
by_strategy = pytest.mark.parametrize(
    'strategy', STRATEGIES, ids=lambda s: s if isinstance(s, str) else 'both'
)


@every_case
@pytest.mark.parametrize('shape', [(1, 3, 64, 64), (2, 3, 96, 160)], ids=str)
def test_none_changes_nothing(case, shape):
    model, image = case.build(), torch.randn(shape)
    kept = image.clone()
    with torch.inference_mode():
        expected = case.output(model, image)
        apply_token_merging(model, 'none')
        assert difference(case.output(model, image), expected) < 1e-5
    assert torch.equal(image, kept)


@every_host
@pytest.mark.parametrize('hidden', [1, 2500, 9000])
def test_no_row_is_lost_where_layers_are_chunked(case, hidden, monkeypatch):
    """Grids that no number of rows divides, in chunks of one row and of some; several images."""
    monkeypatch.setattr(mix_ffn, 'HIDDEN', hidden)
    monkeypatch.setattr(cpu, 'SCORES', 3 * hidden)
    monkeypatch.setattr(cpu, 'SMALLEST', 100)
    model, image = same_eps(case.build()).double(), torch.randn(2, 3, 104, 136).double()
    with torch.inference_mode():
        expected = case.features(case.backbone(model), image)
        apply_token_merging(model, 'none')
        actual = case.features(case.backbone(model), image)
        for a, e in zip(actual, expected, strict=True):
            assert difference(a, e) < 1e-9
        reference = ours_with_weights_of(case.backbone(model), BOTH).double()
        apply_token_merging(model, BOTH)
        with cpu.chunked(False):
            expected = reference(image)
        for a, e in zip(case.features(case.backbone(model), image), expected, strict=True):
            assert difference(a, e) < 1e-9


@every_host
def test_another_strategy_leaves_nothing_of_the_one_before(case):
    strategies = ['downsampling', 'hq', 'downsampling-bilinear', BOTH, '2x2', 'none', 'fast']
    model, image = case.build().double(), torch.randn(1, 3, 128, 160).double()
    with torch.inference_mode():
        expected = []
        for strategy in strategies:
            fresh = case.build().double()
            apply_token_merging(fresh, strategy)
            expected.append(case.output(fresh, image))
        for index in [i for a in range(len(strategies)) for b in range(a) for i in (a, b)]:
            apply_token_merging(model, strategies[index])
            assert torch.equal(case.output(model, image), expected[index]), strategies[index]


@every_case
def test_none_in_training_has_the_same_outputs_and_gradients(case):
    model = case.build().double().train()
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    results = []
    for strategy in (None, 'none'):
        if strategy:
            apply_token_merging(model, strategy)
        model.zero_grad(set_to_none=True)
        output = case.output(model, image)
        output.square().mean().backward()
        gradients = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
        results.append((output.detach(), gradients))
    (expected, before), (actual, after) = results
    assert difference(actual, expected) < 1e-10
    assert before.keys() == after.keys() and len(before) > 50
    scale = max(gradient.abs().max() for gradient in before.values())
    for name in before:
        assert (after[name] - before[name]).abs().max() < 1e-10 * scale, name


@every_case
@by_strategy
def test_merging_equals_our_backbone(case, strategy):
    model = same_eps(case.build()).double()
    reference = ours_with_weights_of(case.backbone(model), strategy).double()
    image = torch.randn(2, 3, 160, 96, dtype=torch.float64)
    apply_token_merging(model, strategy)
    for grad in (False, True):  # rows are for inference alone
        with torch.set_grad_enabled(grad):
            actual = case.features(case.backbone(model), image)
            expected = reference(image)
        for a, e in zip(actual, expected, strict=True):
            assert difference(a, e) < 1e-9
    with torch.inference_mode():
        # in single precision the first stage alone: further on, a match may tip over by rounding
        image, part = torch.randn(1, 3, 128, 128), case.backbone(model.float())
        actual, expected = case.features(part, image)[0], reference.float()(image)[0]
    assert difference(actual, expected) < 1e-5


@every_host
def test_gradients_under_merging_equal_our_backbone(case):
    model = same_eps(case.build()).double()
    apply_token_merging(model, BOTH)
    reference = ours_with_weights_of(case.backbone(model), BOTH).double()
    image = torch.randn(1, 3, 96, 96, dtype=torch.float64)
    gradients = []
    for run in (lambda x: case.features(case.backbone(model), x), reference):
        inputs = image.clone().requires_grad_()
        sum(feature.square().mean() for feature in run(inputs)).backward()
        gradients.append(inputs.grad)
    assert difference(*gradients) < 1e-9


@every_host
def test_autocast_leaves_no_weight_without_a_gradient(case):
    """A weight that is cast without gradients would be kept for the calls that want one."""
    model, image = case.build().train(), torch.randn(1, 3, 96, 96)
    apply_token_merging(model, 'weighted')
    with torch.autocast('cpu', torch.bfloat16):
        features = case.features(case.backbone(model), image)
        sum(feature.float().square().mean() for feature in features).backward()
    without = [n for n, p in case.backbone(model).named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize('name', ['mmseg', 'SegformerModel', 'smp.Unet', 'smp.Segformer'])
def test_downsampling_halves_the_output(name):
    case = CASES[name]
    model, image = case.build(), torch.randn(1, 3, 128, 192)
    with torch.inference_mode():
        before = case.output(model, image)
        apply_token_merging(model, 'downsampling-bilinear')
        after = case.output(model, image)
        assert after.shape[2:] == tuple(side // 2 for side in before.shape[2:])
        apply_token_merging(model, 'none')
        assert difference(case.output(model, image), before) < 1e-5


@every_host
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(case, dtype):
    model, image = case.build(), torch.randn(1, 3, 64, 64)
    apply_token_merging(model, BOTH)
    with torch.inference_mode(), torch.autocast('cpu', dtype):
        assert torch.isfinite(case.output(model, image).float()).all()


def test_dropout_of_the_library_is_kept():
    torch.manual_seed(0)
    model = mmseg_segmentor(drop_rate=0.4, attn_drop_rate=0.3, drop_path_rate=0.2).train()
    image = torch.randn(1, 3, 64, 64)
    attention = model.backbone.layers[1][1][0].attn
    apply_token_merging(model, 'none')
    assert attention.dropout_rate() == 0.3
    outputs = []
    for _ in range(2):
        torch.manual_seed(1)
        outputs.append(model(image))
    assert torch.equal(*outputs)
    assert not torch.equal(model(image), outputs[0])
