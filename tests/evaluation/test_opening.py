"""The models that a benchmark compares have the same weights."""

import pytest

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (must precede mmseg)

# isort: split
import torch
from inference.tiny import build_model

from segformer_plusplus.evaluation.benchmark.settings import share_weights


def test_nothing_is_downloaded_and_the_weights_are_seeded(tiny):
    config, _ = tiny
    one, other = (build_model(config()) for _ in range(2))
    assert not one.training
    states = one.state_dict(), other.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_models_of_the_same_shapes_share_the_weights_of_the_first(tiny):
    config, build = tiny
    first, same = build(), build_model(config())
    wider = build_model(config(mlp_ratio=2))
    before = wider.backbone.layers[0][0].projection.weight.clone()
    share_weights({'first': first, 'same': same, 'wider': wider})
    for key, value in first.state_dict().items():
        assert torch.equal(same.state_dict()[key], value)
    assert torch.equal(wider.backbone.layers[0][0].projection.weight, before)


def test_precision(tiny):
    config, _ = tiny
    model = build_model(config(), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
