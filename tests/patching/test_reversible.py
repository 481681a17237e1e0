"""Patching leaves no trace: same tensors and names, off again bit for bit, copies, files, DDP."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from checkpoints.models import difference
from torch.nn.parallel import DistributedDataParallel

from segformer_plusplus import apply_token_merging, remove_token_merging
from segformer_plusplus.patching import find_backbones

from .models import BOTH, CASES, every_case, every_host, own_segmentor

IMAGE = torch.randn(1, 3, 64, 96)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def skip_what_does_not_compile(case):
    old = torch.__version__.startswith('2.6.')
    if old and case is CASES['SegformerForSemanticSegmentation']:
        pytest.skip('torch 2.6 does not compile the SegFormer of Transformers 5.9, patched or not')


def run(case, model):
    with torch.inference_mode():
        return case.output(model, IMAGE)


def traces(model):
    """Everything that patching could leave behind: classes and attributes of every module."""
    return {
        name: (type(module), sorted(vars(module)), {k: id(v) for k, v in vars(module).items()})
        for name, module in model.named_modules()
    }


@every_case
@pytest.mark.parametrize('strategy', ['hq', 'downsampling', BOTH], ids=['hq', 'down', 'both'])
def test_off_again_leaves_no_trace(case, strategy):
    model = case.build()
    output = run(case, model)  # the first call marks a model of Transformers
    before = traces(model)
    tensors = {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}
    keys = list(model.state_dict())
    apply_token_merging(model, strategy)
    assert not torch.equal(run(case, model), output)
    assert {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()} == tensors
    assert list(model.state_dict()) == keys
    remove_token_merging(model)
    assert torch.equal(run(case, model), output)
    after = traces(model)
    assert {k: v[:2] for k, v in after.items()} == {k: v[:2] for k, v in before.items()}


@every_case
def test_off_where_nothing_is_on(case):
    model = case.build()
    before = traces(model)
    remove_token_merging(model)
    assert traces(model) == before


@every_case
def test_twice_is_the_last(case):
    model, once = case.build(), case.build()
    output = run(case, model)
    apply_token_merging(once, 'hq')
    for strategy in ('downsampling', 'fast', 'hq', 'hq'):
        apply_token_merging(model, strategy)
    assert torch.equal(run(case, model), run(case, once))
    remove_token_merging(model)
    remove_token_merging(model)
    assert torch.equal(run(case, model), output)


def test_ours_gets_the_strategy_back_that_it_had():
    model = own_segmentor(token_merging='2x2')
    before = model.backbone.token_merging
    for strategy in ('hq', 'fast'):
        apply_token_merging(model, strategy)
        assert model.backbone.token_merging.stages[2].q is not None
        assert model.backbone.token_merging != before
    remove_token_merging(model)
    assert model.backbone.token_merging is before
    assert all(block.attn.merging == before.stages[0] for block in model.backbone.layers[0][1])


@every_case
def test_copies_are_independent(case):
    model = case.build()
    output = run(case, model)
    apply_token_merging(model, 'hq')
    merged, twin = run(case, model), copy.deepcopy(model)
    assert torch.equal(run(case, twin), merged)
    remove_token_merging(model)
    assert torch.equal(run(case, twin), merged)
    assert torch.equal(run(case, model), output)
    remove_token_merging(twin)
    assert torch.equal(run(case, twin), output)


@every_host
def test_a_whole_model_can_be_pickled(case):
    model = case.build()
    apply_token_merging(model, 'hq')
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(run(case, again), run(case, model))


@every_host
def test_ddp(case, tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        model, reference = case.build().train(), case.build().train()
        wrapped = DistributedDataParallel(model)
        apply_token_merging(wrapped, 'hq')
        apply_token_merging(reference, 'hq')
        image = torch.randn(2, 3, 64, 96)
        for _ in range(2):
            case.output(wrapped, image).square().mean().backward()
            case.output(reference, image).square().mean().backward()
        for one, other in zip(wrapped.parameters(), reference.parameters(), strict=True):
            if other.grad is not None:
                torch.testing.assert_close(one.grad, other.grad)
        remove_token_merging(wrapped)
        (backbone,) = find_backbones(model)
        assert 'merging' not in vars(backbone.attention(backbone.blocks[0][0]))
    finally:
        dist.destroy_process_group()


@every_host
@pytest.mark.parametrize('strategy', ['none', 'hq'])
def test_compiled(case, strategy):
    skip_what_does_not_compile(case)
    model, image = case.build().double(), IMAGE.double()
    apply_token_merging(model, strategy)
    compiled = torch.compile(case.backbone(model), backend='aot_eager')
    with torch.no_grad():
        expected = case.features(case.backbone(model), image)
        actual = case.features(compiled, image)
    for a, e in zip(actual, expected, strict=True):
        assert difference(a, e) < 1e-9


@every_host
def test_a_compiled_model_can_be_patched(case):
    skip_what_does_not_compile(case)
    model = case.build().double()
    part, image = case.backbone(model), IMAGE.double()
    compiled = torch.compile(part, backend='eager')
    with torch.no_grad():
        before = case.features(compiled, image)
        for strategy in ('2x2', 'downsampling'):
            apply_token_merging(compiled, strategy)
            actual, expected = case.features(compiled, image), case.features(part, image)
            for a, e in zip(actual, expected, strict=True):
                assert difference(a, e) < 1e-9, strategy
        remove_token_merging(compiled)
        for a, e in zip(case.features(compiled, image), before, strict=True):
            assert torch.equal(a, e)
