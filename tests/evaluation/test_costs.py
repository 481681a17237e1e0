"""What a model costs: counted operations, compiled contenders, and equal training steps."""

import itertools
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (must precede mmseg)

# isort: split
import torch
import torch.nn.functional as F
from inference.tiny import build_model
from mmengine.config import Config
from torch import nn

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.evaluation.benchmark import costs
from segformer_plusplus.evaluation.benchmark.contenders import (
    Contender,
    OpenMMLabModel,
    random_labels,
)
from segformer_plusplus.evaluation.benchmark.costs import (
    TrainingStep,
    check_same_step,
    compile_contender,
    count_flops,
    count_parameters,
    without_dropout,
)

from .conftest import build_peer

ROOT = Path(__file__).resolve().parents[2]
IMAGES = torch.randn(2, 3, 64, 96)
LABELS = random_labels(IMAGES, 5)
SMALL = torch.randn(1, 3, 16, 16)


def test_count_parameters():
    assert count_parameters(nn.BatchNorm2d(3)) == 6


@pytest.mark.parametrize('context', [torch.enable_grad, torch.inference_mode])
def test_count_flops(context):
    tokens, weight = torch.randn(2, 10, 8), torch.randn(4, 8)
    query, key = torch.randn(1, 2, 64, 32), torch.randn(1, 2, 16, 32)
    image, depthwise = torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3)
    with context():
        assert count_flops(lambda: F.linear(tokens, weight)) == 2 * 2 * 10 * 8 * 4
        attention = count_flops(lambda: F.scaled_dot_product_attention(query, key, key))
        shapes = query.shape, key.shape, key.shape
        assert attention == costs._attention_flops(*shapes) == 2 * 2 * (2 * 64 * 16 * 32)
        convolution = count_flops(lambda: F.conv2d(image, depthwise, padding=1, groups=4))
        assert convolution == 2 * 4 * 8 * 8 * 9
        assert count_flops(lambda: F.gelu(tokens)) == 0


class Doubled(torch.autograd.Function):
    """Runs a module inside, which has no gradient function there."""

    @staticmethod
    def forward(ctx, module, tokens):
        return module(tokens) * 2

    @staticmethod
    def backward(ctx, grad):
        return None, grad


def test_count_flops_of_a_training_step_with_a_function_of_ones_own():
    first, second = nn.Linear(8, 4), nn.Linear(4, 2)
    tokens = torch.randn(10, 8)

    def step():
        second(Doubled.apply(nn.Linear(4, 4), first(tokens))).sum().backward()

    forward = 2 * 10 * (8 * 4 + 4 * 4 + 4 * 2)
    # the gradients of both weights, and that of the second layer's input
    backward = 2 * 10 * (8 * 4 + 4 * 2 + 4 * 2)
    assert count_flops(step) == forward + backward


def test_rates_of_matrix_products(monkeypatch):
    clock = itertools.count(step=0.5)  # every product takes half a second
    monkeypatch.setattr(costs.time, 'perf_counter', lambda: next(clock))
    rates = costs.matrix_product_rates()
    expected = {'mm': 2 * 2 * 2048**3 / 1e9, 'conv1x1': 2 * 2 * 1024**2 * 64**2 / 1e9}
    assert rates == pytest.approx(expected)


class Tiny(Contender):
    """One convolution, whose class is the largest channel."""

    def __init__(self, one_graph=True):
        module = nn.Conv2d(3, 4, 1)
        super().__init__(module, module)
        self.one_graph = one_graph
        self.traced = []

    def features(self, images):
        return self.module(images)

    def head(self, features):
        self.traced.append(torch.compiler.is_compiling())
        return features.relu()

    def labels(self, logits, size):
        self.traced.append(torch.compiler.is_compiling())
        return super().labels(logits, size)


@pytest.mark.parametrize(('one_graph', 'labels_traced'), [(True, False), (False, True)])
def test_labels_are_compiled_where_one_graph_is_not_asked_for(one_graph, labels_traced):
    eager = Tiny(one_graph)
    compiled, record = compile_contender(eager, SMALL, 'eager', False, 'tiny')
    # the last two are the eager run that it was compared with
    assert eager.traced[:-2] == [True, labels_traced]
    assert record['equal_labels'] == 1 and record['seconds'] > 0
    assert compiled.arithmetic is eager
    assert torch.equal(compiled.predict(SMALL), eager.predict(SMALL))
    eager.traced.clear()
    compiled.labels(torch.randn(1, 4, 8, 8), (16, 16))
    assert eager.traced == [labels_traced]


class Breaks(Tiny):
    def head(self, features):
        torch._dynamo.graph_break()
        return features


def test_what_is_no_single_graph_is_named():
    with pytest.raises(SegformerPlusPlusError, match='breaks: torch.compile failed: .*break'):
        compile_contender(Breaks(), SMALL, 'eager', False, 'breaks')
    compile_contender(Breaks(one_graph=False), SMALL, 'eager', False, 'breaks')
    # the features alone have no break
    _, record = compile_contender(Breaks(), SMALL, 'eager', True, 'breaks')
    assert record['relative_error'] == 0


class Differs(Tiny):
    """Computes something else once it is compiled."""

    def head(self, features):
        return -features if torch.compiler.is_compiling() else features


@pytest.mark.parametrize(
    ('segments', 'message'), [(True, 'of the pixels keep their label'), (False, 'differ by')]
)
def test_other_results_are_noticed(segments, message):
    eager = Differs()
    eager.segments = segments
    with pytest.raises(SegformerPlusPlusError, match=message):
        compile_contender(eager, SMALL, 'eager', False, 'differs')


@pytest.mark.parametrize('library', ['mmseg', 'transformers'])
def test_the_same_step(tiny, library):
    config, build = tiny
    ours = build()
    theirs = build_peer(library, config(), ours)
    steps = [TrainingStep(each, IMAGES, LABELS) for each in (OpenMMLabModel(ours), theirs)]
    errors = check_same_step(*steps, library)
    assert errors['loss'] < 1e-5 and errors['gradient'] < 1e-4
    with torch.no_grad():
        next(theirs.backbone.parameters()).mul_(1.1)
    with pytest.raises(SegformerPlusPlusError, match=f'training step of {library} differs'):
        check_same_step(*steps, library)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_step_leaves_weights_and_no_gradients(tiny, dtype):
    _, build = tiny
    model = build()
    before = [parameter.clone() for parameter in model.parameters()]
    seen = []
    model.decode_head.conv_seg.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    step = TrainingStep(OpenMMLabModel(model), IMAGES, LABELS, dtype)
    assert model.training
    step()
    assert seen == [dtype]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(map(torch.equal, before, model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())
    parts = step.parts()
    assert list(parts) == ['forward', 'backward', 'step']
    parts['forward']()
    parts['backward']()
    assert any(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    with pytest.raises(RuntimeError, match='after forward'):
        parts['backward']()


def test_without_dropout():
    module = nn.Sequential(nn.Dropout(0.4), nn.MultiheadAttention(4, 1, dropout=0.3)).train()
    with without_dropout(module):
        assert (module[0].p, module[1].dropout) == (0, 0)
    assert (module[0].p, module[1].dropout) == (0.4, 0.3)


def test_random_labels_are_the_same_ones_and_of_every_class():
    assert LABELS.shape == (2, 64, 96) and torch.equal(LABELS, random_labels(IMAGES, 5))
    assert set(LABELS.unique().tolist()) == set(range(5))


def test_what_has_no_loss():
    for call in (Tiny().random_targets, lambda images: Tiny().loss(images, LABELS)):
        with pytest.raises(SegformerPlusPlusError, match='not Conv2d'):
            call(IMAGES)


def test_a_step_of_a_pose_estimator():
    pytest.importorskip('mmpose')
    cfg = Config.fromfile(str(ROOT / 'configs/jbd/td-hm_mit-b0_hq_1xb16-210e_jbd-640x480.py'))
    cfg.model.head.decoder.update(input_size=(96, 64), heatmap_size=(24, 16))
    model = build_model(cfg.model, cfg.default_scope)
    contender = OpenMMLabModel(model)
    targets = contender.random_targets(IMAGES)
    assert targets.shape == (2, cfg.model.head.out_channels, 16, 24)
    assert torch.equal(targets, contender.random_targets(IMAGES))
    step = TrainingStep(contender, IMAGES, targets)
    with without_dropout(model), torch.no_grad():
        expected = (contender.logits(IMAGES) - targets).square().mean()  # equal target weights
        torch.testing.assert_close(step.loss(), expected)
    step()
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(SegformerPlusPlusError, match='heatmap_size'):
        TrainingStep(contender, IMAGES[..., :64], targets[..., :16]).loss()
