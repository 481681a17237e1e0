"""Folded weights are kept until what they are made of changes, and never longer."""

import copy
import gc
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from segformer_plusplus.mit import cpu, folding
from segformer_plusplus.mit.folding import forget, keep

from .test_chunked import build_fusion, fuse, pyramid, randomise_norms, relative_error


@pytest.fixture
def folds(monkeypatch):
    """Counts how often the fusion was folded."""
    calls = []
    real = folding._fold
    monkeypatch.setattr(folding, '_fold', lambda module: calls.append(module) or real(module))
    return calls


@pytest.fixture(params=[dict(act_cfg=dict(type='ReLU')), dict(act_cfg=None, bias=True)], ids=str)
def model(request):
    """Four levels, with an activation of their own or joined with the fusion."""
    return build_fusion(norm_cfg=dict(type='BN'), **request.param)


def unfolded(model, features):
    with torch.no_grad(), cpu.chunked(False):
        return fuse(model, features)


def test_folded_weights_are_kept_from_call_to_call(model, folds):
    features = pyramid((16, 24))
    with torch.no_grad():
        first = fuse(model, features)
        assert len(folds) == 5
        assert torch.equal(fuse(model, features), first)
        with torch.inference_mode():
            assert torch.equal(fuse(model, features), first)
        fuse(model, pyramid((9, 7)))
        assert len(folds) == 5
        other = copy.deepcopy(model)  # has nothing, and gets its own
        assert torch.equal(fuse(other, features), first)
        assert len(folds) == 10
        fuse(model, features)
    assert len(folds) == 10


CHANGES = {}


def change(function):
    CHANGES[function.__name__] = function
    return function


@change
def weight_in_place(model):
    model['convs'][0].conv.weight.mul_(2)


@change
def part_of_a_weight(model):
    model['fusion'].conv.weight[:, 24:48].add_(1)


@change
def norm_weight_and_statistics(model):
    randomise_norms(model['convs'])


@change
def running_mean(model):
    model['fusion'].bn.running_mean.add_(1)


@change
def running_var(model):
    model['fusion'].bn.running_var.mul_(2)


@change
def eps(model):
    model['fusion'].bn.eps *= 1e4


@change
def in_inference_mode(model):
    with torch.inference_mode():
        model['convs'][1].conv.weight.mul_(2)


@change
def another_parameter(model):
    model['fusion'].conv.weight = nn.Parameter(torch.randn(24, 96, 1, 1))


@change
def one_more_parameter(model):
    model['fusion'].conv.bias = nn.Parameter(torch.randn(24))


@change
def another_norm(model):
    model['fusion'].bn = nn.BatchNorm2d(24).eval()
    randomise_norms(model['fusion'])


@change
def another_activation(model):
    model['convs'][0].with_activation ^= True
    model['convs'][0].activate = nn.Tanh()


@change
def last_layer(model):
    model['project'].weight.mul_(2)


@change
def loaded(model):
    state = {k: v * 1.5 for k, v in model.state_dict().items() if v.is_floating_point()}
    model.load_state_dict(state, strict=False)


@change
def assigned(model):
    state = {k: v * 1.5 for k, v in model.state_dict().items() if v.is_floating_point()}
    model.load_state_dict(state, strict=False, assign=True)


@change
def initialised(model):
    nn.init.normal_(model['convs'][1].conv.weight)


@change
def trained(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.train()
    with torch.enable_grad():
        fuse(model, pyramid((16, 24))).square().mean().backward()
    optimizer.step()
    model.eval()


@change
def trained_past_all_versions(model):
    with torch.enable_grad():
        fuse(model, pyramid((16, 24))).square().mean().backward()
    for parameter in model.parameters():
        parameter.data -= parameter.grad


@change
def another_memory(model):
    parameter = model['fusion'].conv.weight
    for _ in range(4):  # an allocator likes to give back the memory that was freed last
        parameter.data = parameter.data * 2


@change
def as_a_vector(model):
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector * 1.5, model.parameters())


@change
def rounded(model):
    model.to(torch.float8_e5m2).float()


@pytest.mark.parametrize('inference', [False, True])
@pytest.mark.parametrize('name', CHANGES)
def test_every_change_is_seen(name, inference, model):
    features = pyramid((16, 24))
    with torch.inference_mode(inference), torch.no_grad():
        before = fuse(model, features)
    with torch.no_grad():
        CHANGES[name](model)
        after = fuse(model, features)
        assert torch.equal(fuse(model, features), after)
    assert relative_error(after, unfolded(model, features)) < 1e-5
    assert relative_error(after, before) > 1e-4


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_other_types_are_folded_in_theirs(dtype, model):
    features = pyramid((16, 24))
    with torch.no_grad():
        fuse(model, features)
        found = fuse(model.to(dtype), [each.to(dtype) for each in features])
        assert found.dtype == dtype
        fuse(model.float(), features)


def test_forgotten_is_folded_again(model, folds):
    features = pyramid((16, 24))
    with torch.no_grad():
        fuse(model, features)
        model['convs'][0].conv.weight.data.mul_(2)  # which nothing notices
        forget(model['fusion'])
        assert relative_error(fuse(model, features), unfolded(model, features)) < 1e-5
    assert len(folds) == 10


def test_nothing_of_it_is_copied_or_saved(model):
    features = pyramid((16, 24))
    keys, size = list(model.state_dict()), len(pickle.dumps(model))
    with torch.no_grad():
        expected = fuse(model, features)
        assert list(model.state_dict()) == keys and len(pickle.dumps(model)) == size
        torch.save(model, file := io.BytesIO())
        file.seek(0)
        copies = (
            copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model)),
            torch.load(file, weights_only=False),
        )  # fmt: skip
        for other in copies:
            assert torch.equal(fuse(other, features), expected)


def test_it_goes_with_its_module():
    gc.collect()  # what other tests left
    model = build_fusion()
    with torch.no_grad():
        fuse(model, pyramid((16, 24)))
    kept = len(folding._kept)
    del model
    gc.collect()
    assert len(folding._kept) == kept - 1


class Fused(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *features):
        return fuse(self.model, features)


@pytest.mark.parametrize('case', ['gradients', 'compiled', 'traced', 'inference tensors'])
def test_nothing_is_kept_where_it_would_be_wrong(case, model):
    features = pyramid((16, 24))
    if case == 'inference tensors':
        with torch.inference_mode():
            for parameter in model.parameters():
                parameter.data = parameter.clone()
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            model.load_state_dict(state, assign=True)
    if case == 'traced':
        with torch.no_grad():
            fuse(model, features)  # keeps what the graph must not hold
    run = Fused(model)
    with torch.set_grad_enabled(case == 'gradients'):
        if case == 'traced':
            run = torch.jit.trace(run, features, check_trace=False)
        if case == 'compiled':
            run = torch.compile(run, backend='eager', fullgraph=True)
        for _ in range(2):
            found = run(*features).detach()
            assert case == 'traced' or model['fusion'] not in folding._kept
            assert relative_error(found, unfolded(model, features)) < 1e-5
            with torch.inference_mode():
                model['convs'][0].conv.weight.mul_(2)
                model['fusion'].bn.running_mean.add_(1)
    torch.compiler.reset()


def test_a_fake_tensor_is_not_kept(model, no_gpu):
    features = pyramid((16, 24))
    with torch.no_grad():
        no_gpu.allow_non_fake_inputs = True
        with no_gpu:
            fuse(model, [torch.empty(each.shape) for each in features])
        assert model['fusion'] not in folding._kept
        expected = fuse(model, features)
        with no_gpu:
            fuse(model, [torch.empty(each.shape) for each in features])
        assert torch.equal(fuse(model, features), expected)


def test_weights_that_need_gradients_are_not_kept():
    owner, weight = nn.Identity(), nn.Parameter(torch.randn(3, 4))
    assert keep(owner, [weight], None, lambda: weight * 2).requires_grad
    assert owner not in folding._kept


def test_batched_weights_are_not_kept():
    owner, weight = nn.Identity(), torch.randn(3, 4)
    with torch.no_grad():
        found = torch.vmap(lambda row: keep(owner, [row], None, lambda: row * 2))(weight)
    assert torch.equal(found, weight * 2)
    assert owner not in folding._kept


def test_threads_may_predict_at_once():
    models = [build_fusion(norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')) for _ in range(2)]
    features = pyramid((9, 8))
    expected = [unfolded(model, features) for model in models]

    def predict(number):
        with torch.no_grad():
            if number % 7 == 0:
                forget(models[number % 2]['fusion'])
            return relative_error(fuse(models[number % 2], features), expected[number % 2])

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(predict, range(200))) < 1e-5


def test_norms_may_be_in_float32_beside_half_precision(model):
    model.eval().bfloat16()
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.float()
    features = [each.bfloat16() for each in pyramid((16, 24))]
    with torch.no_grad():
        found = fuse(model, features)
    expected = unfolded(model, features)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert relative_error(found.float(), expected.float()) < 0.05
