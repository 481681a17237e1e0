"""Plans where kernels run: on a GPU, be it one that is not there."""

import pytest
import torch
from kernels.counting import Kernels
from kernels.gpu import skip_unless_matching_runs
from tomesd.merge import bipartite_soft_matching_random2d

from segformer_plusplus.kernels import enabled, runtime
from segformer_plusplus.kernels.matching import matched_index
from segformer_plusplus.kernels.merging import group_means
from segformer_plusplus.mit import attention, gpu
from segformer_plusplus.token_merging import (
    BipartiteSoftMatching1d,
    BipartiteSoftMatching2d,
    IdentityPlan,
    bipartite,
    plans,
)
from segformer_plusplus.token_merging.plans import SlotPlan


@pytest.fixture
def capable(monkeypatch):
    """A GPU that is not there is new enough."""
    monkeypatch.setattr(runtime, 'is_capable', lambda device: True)


@pytest.fixture
def launched(monkeypatch):
    """Kernels run wherever tensors are: in Triton's interpreter where there is no GPU."""
    skip_unless_matching_runs()
    monkeypatch.setattr(bipartite, 'runs_on', lambda tokens: True)
    monkeypatch.setattr(plans, 'runs_on', lambda tokens: True)
    monkeypatch.setattr(bipartite, 'matched_index', matched_index.launch)
    monkeypatch.setattr(plans, 'group_means', group_means.launch)


def launches(merger, tokens, grid, monkeypatch):
    made = merger.split(grid, tokens.device)  # once for a grid
    monkeypatch.setattr(merger, 'split', lambda grid, device: made)
    with Kernels() as counted:
        plan = merger.plan(tokens, grid)
        plan.unmerge(plan.merge(tokens))
    return counted.started


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_a_plan_with_one_merge_and_unmerge_is_six_launches(dtype, capable, no_gpu, monkeypatch):
    merger = BipartiteSoftMatching2d(0.6, 2)
    with no_gpu, torch.no_grad():
        tokens = torch.empty(2, 16 * 24, 64, device='cuda', dtype=dtype)
        counts = launches(merger, tokens, (16, 24), monkeypatch)
        assert counts == dict(matched_index=2, group_means=3, index_select=1)
        with enabled(False):
            assert launches(merger, tokens, (16, 24), monkeypatch).total() > 24


def test_tokens_of_other_kinds_and_in_training_go_to_pytorch(capable, no_gpu, monkeypatch):
    merger = BipartiteSoftMatching2d(0.6, 2)
    with no_gpu:
        for settings in (dict(dtype=torch.float64), dict(requires_grad=True)):
            tokens = torch.empty(1, 8 * 8, 6, device='cuda', **settings)
            counts = launches(merger, tokens, (8, 8), monkeypatch)
            assert not {'matched_index', 'group_means'} & set(counts)


@pytest.mark.parametrize(
    'merger, grid, batch',
    [
        (BipartiteSoftMatching2d(0.6, 2), (10, 13), 2),
        (BipartiteSoftMatching2d(0.9, 4), (15, 22), 1),
        (BipartiteSoftMatching2d(0.75, 2), (6, 6), 2),
        (BipartiteSoftMatching2d(0.5, (3, 2)), (1, 7), 2),
        (BipartiteSoftMatching1d(0.4), (3, 7), 2),
    ],
    ids=repr,
)
def test_plans_of_kernels_merge_as_those_of_pytorch(merger, grid, batch, request):
    tokens = torch.randn(batch, grid[0] * grid[1], 12)
    expected = merger.plan(tokens, grid)
    weights = torch.randn(batch, 3, tokens.shape[1]).mT  # of heads, in another layout
    merged = [expected.merge(each) for each in (tokens, weights)]
    request.getfixturevalue('launched')
    plan = merger.plan(tokens, grid)
    assert (plan.num_tokens, plan.num_merged) == (expected.num_tokens, expected.num_merged)
    assert plan.sizes().shape == expected.sizes().shape
    assert torch.equal(plan.sizes().sort().values, expected.sizes().sort().values)
    for each, theirs in zip((tokens, weights), merged, strict=True):
        torch.testing.assert_close(plan.unmerge(plan.merge(each)), expected.unmerge(theirs))


@pytest.mark.parametrize('ratio, stride', [(0.6, 2), (0.9, 4)])
def test_plans_of_kernels_are_those_of_tomesd(ratio, stride, launched):
    tokens = torch.randn(2, 12 * 14, 16)
    merge, unmerge = bipartite_soft_matching_random2d(
        tokens.double(), w=14, h=12, sx=stride, sy=stride, r=int(168 * ratio), no_rand=True
    )
    plan = BipartiteSoftMatching2d(ratio, stride).plan(tokens, (12, 14))
    found, expected = plan.unmerge(plan.merge(tokens)), unmerge(merge(tokens.double()))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(AssertionError):  # were any token in another group
        plan.index = plan.index.roll(1)
        found = plan.unmerge(plan.merge(tokens)).double()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('grid', [(1, 1), (1, 2)])
def test_a_grid_of_one_cell(grid, launched):
    tokens = torch.randn(2, grid[1], 5)
    plan = BipartiteSoftMatching2d(0.5, 4).plan(tokens, grid)
    assert isinstance(plan, IdentityPlan) == (grid == (1, 1))
    mean = tokens.mean(1, keepdim=True).expand_as(tokens)
    torch.testing.assert_close(plan.unmerge(plan.merge(tokens)), mean)


def test_the_index_of_a_plan_names_the_merged_tokens_of_the_batch():
    slot = torch.tensor([[0, 1, 1], [1, 0, 1]])
    plan = SlotPlan(slot, 2)
    assert plan.index.tolist() == [0, 1, 1, 3, 2, 3]
    same = SlotPlan.of_index(plan.index.view(2, 3), plan.sizes())
    assert torch.equal(same.index, plan.index)
    assert repr(same) == repr(plan)
    tokens = torch.randn(2, 3, 4)
    assert torch.equal(same.merge(tokens), plan.merge(tokens))
    merged = plan.merge(tokens)
    assert torch.equal(same.unmerge(merged), merged.flatten(0, 1)[plan.index].view(2, 3, 4))


@pytest.mark.parametrize('shape', [(1, 6, 4), (2, 5, 4), (3, 6, 4)])
def test_tokens_of_another_grid_or_batch_are_refused(shape, launched, monkeypatch):
    plan = SlotPlan(torch.arange(6).expand(2, 6) // 2, 3)
    monkeypatch.setattr(plans, 'group_means', group_means)
    monkeypatch.setattr(group_means, 'launch', lambda *arguments: pytest.fail('read beyond'))
    with pytest.raises((RuntimeError, IndexError)):
        plan.merge(torch.randn(shape))


def test_a_trace_without_numbers_leaves_nothing_behind(no_gpu):
    merger, grid = BipartiteSoftMatching2d(0.5, 2), (6, 26)
    bipartite._splits.clear()
    for _ in range(2):  # before and after tensors with numbers
        with no_gpu:
            tokens = torch.empty(1, 6 * 26, 3)
            plan = merger.plan(tokens, grid)
            assert type(plan.merge(tokens)) is type(tokens) is not torch.Tensor
        assert type(merger.plan(torch.randn(1, 6 * 26, 3), grid).sizes()) is torch.Tensor
    assert len(bipartite._splits) == 1


@pytest.mark.parametrize('cell', [(1, 1), (1, 3), (4, 1), (2, 2), (2, 3), (5, 7)])
@pytest.mark.parametrize('grid', [(5, 7), (8, 9), (11, 7), (6, 12), (13, 13)])
def test_the_split_of_a_grid(grid, cell):
    """Destinations are the top left tokens of whole cells."""
    whole = [size // side * side for size, side in zip(grid, cell, strict=True)]
    sources, destinations = [], []
    for token in range(grid[0] * grid[1]):
        place = divmod(token, grid[1])
        corner = all(a % b == 0 and a < c for a, b, c in zip(place, cell, whole, strict=True))
        (destinations if corner else sources).append(token)
    found = bipartite._split_grid(grid, cell, torch.device('cpu'))
    assert [each.tolist() for each in found] == [sources, destinations]


def test_splits_of_a_capture_and_of_another_stream_are_not_taken(monkeypatch):
    """They may not have been computed yet."""
    merger, device = BipartiteSoftMatching2d(0.5, 2), torch.device('cpu')
    gpu = type('cuda', (), {'type': 'cuda', '__hash__': lambda self: 1})()
    monkeypatch.setattr(bipartite, '_split_grid', lambda *each: (torch.empty(1), torch.empty(1)))
    monkeypatch.setattr(bipartite.torch, 'empty', lambda *size, device=None: torch.zeros(1))
    streams, capturing = iter('aaabb'), iter([True, False, False])
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: next(streams))
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: next(capturing))
    bipartite._splits.clear()
    captured, made, again, other, same = (merger.split((5, 7), gpu)[0] for _ in range(5))
    assert captured is not made and made is again and other is not made and other is same
    assert merger.split((5, 7), device)[0] is not made
    bipartite._splits.clear()


class Louder(SlotPlan):
    """A plan of a user that unmerges in its own way."""

    def unmerge(self, tokens):
        return 2 * super().unmerge(tokens)


def test_a_plan_of_a_user_is_asked(monkeypatch):
    index = torch.arange(6).expand(2, 6) // 2
    tokens, update = torch.randn(2, 6, 4), torch.randn(2, 3, 4)
    norm = torch.nn.LayerNorm(4)
    monkeypatch.setattr(gpu, 'runs_on', lambda *tensors: True)
    for kind, factor in ((SlotPlan, 1), (Louder, 2)):
        total, _ = gpu.add_norm(tokens, update, norm, kind(index, 3))
        torch.testing.assert_close(total, tokens + factor * update.repeat_interleave(2, 1))


def test_a_plan_of_another_batch_is_refused(monkeypatch):
    plan = SlotPlan(torch.arange(6).expand(1, 6) // 2, 3)
    key, query = torch.randn(2, 6, 8), torch.randn(2, 4, 8)
    monkeypatch.setattr(attention, 'weighs', lambda *each: True)
    monkeypatch.setattr(attention, 'merge_weighed', lambda *each: pytest.fail('written beyond'))
    with pytest.raises((RuntimeError, IndexError)):
        attention.merge_by_attention(plan, query, key, key, 2)
