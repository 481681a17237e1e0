"""Training steps: the same in every library, and nothing is left of one."""

from pathlib import Path

import pytest

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (must precede mmseg)

# isort: split
import torch
from inference.tiny import build_model
from mmengine.config import Config
from torch import nn

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.evaluation.benchmark.contenders import (
    Contender,
    OpenMMLabModel,
    random_labels,
)
from segformer_plusplus.evaluation.benchmark.peers import (
    TransformersModel,
    make_levels_linear,
    mmseg_peer,
)
from segformer_plusplus.evaluation.benchmark.training_step import (
    TrainingStep,
    check_same_step,
    without_dropout,
)

ROOT = Path(__file__).resolve().parents[2]
IMAGES = torch.randn(2, 3, 64, 96)
LABELS = random_labels(IMAGES, 5)


def peer(library, config, ours):
    if library == 'transformers':
        pytest.importorskip('transformers')
        return TransformersModel(config, ours)
    theirs = build_model(mmseg_peer(config))
    make_levels_linear(theirs, ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return OpenMMLabModel(theirs)


@pytest.mark.parametrize('library', ['mmseg', 'transformers'])
def test_the_same_step(tiny, library):
    config, build = tiny
    ours = build()
    theirs = peer(library, config(), ours)
    steps = [TrainingStep(each, IMAGES, LABELS) for each in (OpenMMLabModel(ours), theirs)]
    errors = check_same_step(*steps, library)
    assert errors['loss'] < 1e-5 and errors['gradient'] < 1e-4
    with torch.no_grad():
        next(theirs.backbone.parameters()).mul_(1.1)
    with pytest.raises(SegformerPlusPlusError, match=f'training step of {library} differs'):
        check_same_step(*steps, library)


def test_a_step_leaves_weights_and_no_gradients(tiny):
    _, build = tiny
    model = build()
    before = [parameter.clone() for parameter in model.parameters()]
    step = TrainingStep(OpenMMLabModel(model), IMAGES, LABELS)
    assert model.training
    step()
    assert all(map(torch.equal, before, model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())
    parts = step.parts()
    assert list(parts) == ['forward', 'backward', 'step']
    parts['forward']()
    parts['backward']()
    assert any(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    with pytest.raises(RuntimeError, match='after forward'):
        parts['backward']()


def test_autocast_keeps_float32_weights(tiny):
    _, build = tiny
    model = build()
    step = TrainingStep(OpenMMLabModel(model), IMAGES, LABELS, torch.bfloat16)
    seen = []
    model.decode_head.conv_seg.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    step()
    assert seen == [torch.bfloat16]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_without_dropout():
    module = nn.Sequential(nn.Dropout(0.4), nn.MultiheadAttention(4, 1, dropout=0.3)).train()
    with without_dropout(module):
        assert (module[0].p, module[1].dropout) == (0, 0)
        ones = torch.ones(100)
        assert torch.equal(module[0](ones), ones)
    assert (module[0].p, module[1].dropout) == (0.4, 0.3)


def test_random_labels_are_the_same_ones_and_of_every_class():
    assert LABELS.shape == (2, 64, 96) and torch.equal(LABELS, random_labels(IMAGES, 5))
    assert set(LABELS.unique().tolist()) == set(range(5))


@pytest.mark.parametrize('call', ['random_targets', 'loss'])
def test_what_has_no_loss(call):
    class Other(Contender):
        features = head = None

    Other.__abstractmethods__ = frozenset()
    arguments = [IMAGES, LABELS][: 1 + (call == 'loss')]
    with pytest.raises(SegformerPlusPlusError, match='not Linear'):
        getattr(Other(nn.Linear(1, 1), nn.Linear(1, 1)), call)(*arguments)


def test_a_step_of_a_pose_estimator():
    pytest.importorskip('mmpose')
    cfg = Config.fromfile(str(ROOT / 'configs/jbd/td-hm_mit-b0_hq_1xb16-210e_jbd-640x480.py'))
    cfg.model.head.decoder.update(input_size=(96, 64), heatmap_size=(24, 16))
    model = build_model(cfg.model, cfg.default_scope)
    contender = OpenMMLabModel(model)
    targets = contender.random_targets(IMAGES)
    keypoints = cfg.model.head.out_channels
    assert targets.shape == (2, keypoints, 16, 24)
    assert torch.equal(targets, contender.random_targets(IMAGES))
    step = TrainingStep(contender, IMAGES, targets)
    with without_dropout(model), torch.no_grad():
        expected = (contender.logits(IMAGES) - targets).square().mean()  # equal target weights
        torch.testing.assert_close(step.loss(), expected)
    step()
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(SegformerPlusPlusError, match='heatmap_size'):
        TrainingStep(contender, IMAGES[..., :64], targets[..., :16]).loss()
