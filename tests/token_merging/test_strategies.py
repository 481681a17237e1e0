"""Strategies against tomesd and against plain loops; tests/fuzz has the contract of every plan."""

import pytest
import torch
import torch.nn.functional as F
from tomesd.merge import bipartite_soft_matching_random2d
from torch.utils._python_dispatch import TorchDispatchMode

from segformer_plusplus.token_merging import (
    BipartiteSoftMatching1d,
    BipartiteSoftMatching2d,
    NeighborMerging1d,
    NeighborMerging2d,
    TomesdMatching,
)
from segformer_plusplus.token_merging.bipartite import match_tokens

STRATEGIES = [
    BipartiteSoftMatching2d(0.6, 2),
    BipartiteSoftMatching2d(0.9, 4),
    BipartiteSoftMatching2d(0.5, (1, 4)),
    BipartiteSoftMatching2d(0.0, 2),
    BipartiteSoftMatching1d(0.5),
    BipartiteSoftMatching1d(0.2),
    NeighborMerging1d(2),
    NeighborMerging1d(7),
    NeighborMerging2d(2),
    NeighborMerging2d((3, 2)),
    TomesdMatching(0.6, 2, seed=3),
    TomesdMatching(0.9, 4, seed=None),
]

by_strategy = pytest.mark.parametrize('merger', STRATEGIES, ids=repr)


def random_tokens(batch, grid, channels=6, dtype=torch.float32):
    return torch.randn(batch, grid[0] * grid[1], channels).to(dtype)


@by_strategy
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_constants_survive_every_dtype(merger, dtype):
    """A group of hundreds of tokens must not lose its mean to bf16 sums that stop growing."""
    grid = (24, 25)
    constant = torch.full((2, grid[0] * grid[1], 3), 0.7).to(dtype)
    plan = merger.plan(random_tokens(2, grid, dtype=dtype), grid)
    torch.testing.assert_close(plan.unmerge(plan.merge(constant)), constant)


def test_one_large_group_in_half_precision():
    tokens = torch.ones(1, 1024, 4, dtype=torch.bfloat16)
    plan = BipartiteSoftMatching2d(0.99, 10).plan(tokens, (32, 32))
    assert plan.sizes().max() > 256
    torch.testing.assert_close(plan.merge(tokens), torch.ones_like(plan.merge(tokens)))


def test_doubles_are_matched_as_doubles():
    """In single precision all of these tokens are one."""
    tokens = 1 + 1e-6 * torch.randn(1, 64, 8, dtype=torch.float64)
    sources, destinations = torch.arange(64).view(32, 2).T
    unit = F.normalize(tokens[0], dim=-1)
    slot = match_tokens(tokens, sources, destinations, num_kept=0)
    assert torch.equal(slot[0, sources], (unit[sources] @ unit[destinations].T).argmax(dim=1))


class _Sums(TorchDispatchMode):
    """Notes in which precision tokens are added up."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ('index_add', 'scatter_reduce', 'scatter_reduce_', 'scatter_add'):
            self.types.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    'merger', [m for m in STRATEGIES if 'Matching' in repr(m) and m.ratio], ids=repr
)
def test_sums_are_never_in_half_precision(merger, dtype):
    """A CPU may hide it, where a sum in bf16 happens to be kept in more; a GPU does not."""
    tokens = random_tokens(2, (16, 20), dtype=dtype)
    plan = merger.plan(tokens, (16, 20))
    with _Sums() as sums:
        assert plan.merge(tokens).dtype == dtype
    assert sums.types == {torch.promote_types(dtype, torch.float32)}


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('merger', STRATEGIES, ids=repr)
def test_tokens_of_half_precision_are_matched_in_single(merger, dtype):
    tokens = random_tokens(1, (12, 16), dtype=dtype)
    if isinstance(merger, TomesdMatching):
        pytest.skip('tomesd matches in the precision of the tokens')
    half, single = merger.plan(tokens, (12, 16)), merger.plan(tokens.float(), (12, 16))
    marks = torch.arange(half.num_merged, dtype=torch.float64)[None, :, None]
    assert torch.equal(half.unmerge(marks), single.unmerge(marks))


@by_strategy
def test_gradients(merger):
    grid = (5, 6)
    tokens = random_tokens(2, grid, channels=2, dtype=torch.float64).requires_grad_()
    plan = merger.plan(tokens, grid)
    assert torch.autograd.gradcheck(plan.merge, tokens)
    merged = plan.merge(tokens).detach().requires_grad_()
    assert torch.autograd.gradcheck(plan.unmerge, merged)


@by_strategy
def test_eval_in_inference_mode_then_train(merger):
    """Nothing cached while testing may break the next training step."""
    grid = (11, 10)
    with torch.inference_mode():
        merger.plan(random_tokens(1, grid), grid)
    tokens = random_tokens(1, grid).requires_grad_()
    plan = merger.plan(tokens, grid)
    plan.unmerge(plan.merge(tokens)).square().sum().backward()
    assert torch.isfinite(tokens.grad).all()


@pytest.mark.parametrize('ratio, stride', [(0.6, 2), (0.9, 4), (0.75, 2), (0.4, (2, 4))])
@pytest.mark.parametrize('grid', [(8, 8), (9, 14), (17, 5), (32, 16)], ids=str)
@pytest.mark.parametrize('batch', [1, 2])
def test_equal_to_tomesd(ratio, stride, grid, batch):
    tokens = random_tokens(batch, grid, channels=12, dtype=torch.float64)
    sy, sx = (stride, stride) if isinstance(stride, int) else stride
    merge, unmerge = bipartite_soft_matching_random2d(
        tokens, w=grid[1], h=grid[0], sx=sx, sy=sy, r=int(tokens.shape[1] * ratio), no_rand=True
    )
    plan = BipartiteSoftMatching2d(ratio, stride).plan(tokens, grid)
    assert plan.num_merged == merge(tokens).shape[1]
    torch.testing.assert_close(plan.unmerge(plan.merge(tokens)), unmerge(merge(tokens)))
    # the merged tokens are the same set, in whatever order
    ours, theirs = (
        F.pad(x.sum(-1).sort(1).values, (0, 0)) for x in (plan.merge(tokens), merge(tokens))
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('seed', [None, 0, 7])
def test_tomesd_matching_is_tomesd(seed):
    grid, tokens = (12, 9), random_tokens(2, (12, 9))
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    merge, unmerge = bipartite_soft_matching_random2d(
        tokens, w=9, h=12, sx=2, sy=2, r=int(108 * 0.5), no_rand=seed is None, generator=generator
    )
    plan = TomesdMatching(0.5, 2, seed=seed).plan(tokens, grid)
    assert torch.equal(plan.merge(tokens), merge(tokens))
    assert torch.equal(plan.unmerge(plan.merge(tokens)), unmerge(merge(tokens)))


def test_tomesd_seed_is_repeatable_and_matters():
    grid, tokens = (12, 12), random_tokens(1, (12, 12))
    first, again, other = (
        TomesdMatching(0.6, 2, seed=seed).plan(tokens, grid).merge(tokens) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_equal_to_a_plain_alternating_matching():
    """ToMe's algorithm, written out token by token."""
    tokens = random_tokens(1, (3, 7), dtype=torch.float64)
    tokens[:, 4] = 0  # a token of zeros is like no other
    unit = F.normalize(tokens[0], dim=-1)
    sources, destinations = range(0, 21, 2), range(1, 21, 2)
    best = {s: max(destinations, key=lambda d: (unit[s] @ unit[d]).item()) for s in sources}
    ranked = sorted(sources, key=lambda s: -(unit[s] @ unit[best[s]]).item())
    group = {n: n for n in range(21)} | {s: best[s] for s in ranked[: int(21 * 0.3)]}
    members = {g: [n for n in range(21) if group[n] == g] for g in set(group.values())}
    expected = torch.stack([tokens[0, members[group[n]]].mean(0) for n in range(21)])

    plan = BipartiteSoftMatching1d(0.3).plan(tokens, (3, 7))
    torch.testing.assert_close(plan.unmerge(plan.merge(tokens))[0], expected)


@pytest.mark.parametrize('stride', [2, 3, (2, 5), (4, 1)])
@pytest.mark.parametrize('grid', [(6, 6), (7, 5), (1, 4)], ids=str)
def test_equal_to_plain_cell_means(stride, grid):
    sy, sx = (stride, stride) if isinstance(stride, int) else stride
    image = torch.randn(grid[0], grid[1], 3, dtype=torch.float64)
    expected = torch.empty_like(image)
    for y in range(0, grid[0], sy):
        for x in range(0, grid[1], sx):
            expected[y : y + sy, x : x + sx] = image[y : y + sy, x : x + sx].mean((0, 1))
    tokens = image.flatten(0, 1).unsqueeze(0)
    plan = NeighborMerging2d(stride).plan(tokens, grid)
    torch.testing.assert_close(plan.unmerge(plan.merge(tokens))[0], expected.flatten(0, 1))


def test_neighbours_in_1d_are_runs_of_the_flattened_tokens():
    tokens = torch.arange(7.0).view(1, 7, 1)
    plan = NeighborMerging1d(3).plan(tokens, (1, 7))
    assert plan.merge(tokens).flatten().tolist() == [1, 4, 6]
    assert plan.unmerge(plan.merge(tokens)).flatten().tolist() == [1, 1, 1, 4, 4, 4, 6]
    assert plan.sizes().tolist() == [[3, 3, 1]]


@pytest.mark.parametrize(
    'build, words',
    [
        (lambda: BipartiteSoftMatching2d(1.2), ['1.2', '[0, 1]']),
        (lambda: BipartiteSoftMatching2d(-0.1), ['-0.1', '[0, 1]']),
        (lambda: BipartiteSoftMatching2d('0.5'), ["'0.5'", '[0, 1]']),
        (lambda: BipartiteSoftMatching2d(float('nan')), ['nan', '[0, 1]']),
        (lambda: BipartiteSoftMatching2d(0.9, 2), ['0.9', '0.75', '2x2']),
        (lambda: BipartiteSoftMatching2d(1.0, 2), ['1.0', '0.75', '2x2']),
        (lambda: TomesdMatching(0.9, 2), ['0.9', '0.75']),
        (lambda: TomesdMatching(0.5, 2, seed='x'), ['seed', "'x'", 'integer']),
        (lambda: TomesdMatching(0.5, 2, seed=2**64), ['seed', str(2**64)]),
        (lambda: BipartiteSoftMatching1d(0.6), ['0.6', '0.5']),
        (lambda: BipartiteSoftMatching2d(0.5, 0), ['stride=0', 'positive']),
        (lambda: BipartiteSoftMatching2d(0.5, (2, 2, 2)), ['(2, 2, 2)', 'pair']),
        (lambda: NeighborMerging2d(-1), ['stride=-1', 'positive']),
        (lambda: NeighborMerging2d(2.0), ['2.0', 'positive']),
        (lambda: NeighborMerging1d((2, 2)), ['(2, 2)', 'integer']),
    ],
)
def test_settings_out_of_range(build, words):
    with pytest.raises(ValueError) as error:
        build()
    message = str(error.value)
    assert '\n' not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize('merger', STRATEGIES[:-2], ids=repr)
def test_plans_stay_on_the_device(merger, no_gpu):
    """Without those that need tomesd's generator, which only a real GPU has."""
    with no_gpu:
        tokens = torch.empty(2, 12 * 13, 6, device='cuda')
        plan = merger.plan(tokens, (12, 13))
        merged = plan.merge(tokens)
        for made in (merged, plan.unmerge(merged), plan.sizes()):
            assert made.device.type == 'cuda'
    assert plan.unmerge(merged).shape == tokens.shape
