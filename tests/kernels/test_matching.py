"""Matching in two kernels, against similarities in double precision."""

import pytest

pytest.importorskip('triton')

import torch
import torch.nn.functional as F

from segformer_plusplus.kernels import matching
from segformer_plusplus.kernels.matching import (
    DEPTH,
    DESTINATIONS,
    ONE,
    SOURCES,
    _match,
    _select,
    matched_index,
)
from segformer_plusplus.token_merging.bipartite import BipartiteSoftMatching2d, match_tokens
from segformer_plusplus.token_merging.plans import SlotPlan

from .gpu import DEVICE, DTYPES, check_compiled, skip_unless_matching_runs

skip_unless_matching_runs()

ROUNDING = 3e-6

SHAPES = [
    # grid, C, cell, ratio, B
    ((16, 24), 64, 2, 0.6, 2),
    ((15, 22), 32, 4, 0.9, 1),
    ((16, 16), 320, 4, 0.9, 1),
    ((8, 8), 48, 4, 15 / 16, 3),  # no source stays alone
    ((9, 7), 100, 3, 0.02, 2),  # nearly all do
    ((3, 5), 5, 2, 0.5, 2),
]


def split(grid, cell):
    return BipartiteSoftMatching2d(0.0, cell).split(grid, DEVICE)


def problem(grid, channels, cell, ratio, batch, dtype=torch.float32):
    """Tokens, sources, destinations, and how many sources stay alone."""
    tokens = torch.randn(batch, grid[0] * grid[1], channels, device=DEVICE).to(dtype)
    sources, destinations = split(grid, cell)
    merged_away = min(int(tokens.shape[1] * ratio), len(sources))
    return tokens, sources, destinations, len(sources) - merged_away


def check_valid(index, sizes, tokens, num_destinations, num_kept):
    """Groups are within their image, counted right, and every slot is used as it must be."""
    batch, num_tokens, _ = tokens.shape
    num_merged = num_kept + num_destinations
    assert (index.shape, sizes.shape) == ((batch, num_tokens), (batch, num_merged))
    assert index.dtype == sizes.dtype == torch.long
    slot = index - torch.arange(batch, device=DEVICE)[:, None] * num_merged
    assert slot.min() >= 0 and slot.max() < num_merged
    counted = torch.stack([each.bincount(minlength=num_merged) for each in slot])
    assert torch.equal(counted, sizes)
    assert sizes[:, :num_kept].eq(1).all() and sizes.min() >= 1
    return slot


def check_best(slot, tokens, sources, destinations, num_kept):
    """What is chosen is the best to rounding, and what is kept the least."""
    unit = F.normalize(tokens.double(), dim=-1)
    similarity = unit[:, sources] @ unit[:, destinations].mT
    best = similarity.amax(-1)
    place = torch.arange(len(destinations), device=DEVICE) + num_kept
    assert slot[:, destinations].eq(place).all()
    kept, nearest = slot[:, sources] < num_kept, slot[:, sources] - num_kept
    chosen = similarity.gather(2, nearest.clamp_min(0)[..., None])[..., 0]
    assert (best - chosen).masked_fill(kept, 0).max() < ROUNDING
    for own, is_kept, slots in zip(best, kept, slot[:, sources], strict=True):
        assert is_kept.sum() == num_kept
        assert slots[is_kept].tolist() == list(range(num_kept))
        if is_kept.any() and not is_kept.all():
            assert own[is_kept].max() <= own[~is_kept].min() + ROUNDING


@pytest.mark.parametrize('dtype', [*DTYPES, torch.float16])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_the_best_are_matched_and_the_least_kept(shape, dtype):
    tokens, *arguments = problem(*shape, dtype)
    index, sizes = matched_index.launch(tokens, *arguments)
    slot = check_valid(index, sizes, tokens, len(arguments[1]), arguments[2])
    check_best(slot, tokens, *arguments)


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_tokens_are_merged_as_by_pytorch(shape):
    """However the slots of kept tokens are ordered, copies of merged tokens are the same."""
    tokens, *arguments = problem(*shape)

    def worst(index, sizes):
        plan = SlotPlan.of_index(index, sizes)
        assert plan.num_merged == expected.num_merged
        merged = [each.unmerge(each.merge(tokens)) for each in (plan, expected)]
        return (merged[0] - merged[1]).abs().max()

    expected = SlotPlan(match_tokens(tokens, *arguments), arguments[2] + len(arguments[1]))
    index, sizes = matched_index.launch(tokens, *arguments)
    assert worst(index, sizes) < 1e-5
    assert worst(index.roll(1, 1), sizes) > 0.1
    reference = matched_index.reference(tokens, *arguments)
    assert worst(*reference) < 1e-5
    assert torch.equal(index, reference[0]) and torch.equal(sizes, reference[1])


@pytest.mark.parametrize('most', [256, 4096])
def test_more_sources_than_are_counted_at_a_time(most, monkeypatch):
    monkeypatch.setattr(matching, 'MOST', most)
    tokens, *arguments = problem((36, 40), 16, 2, 0.5, 2)
    tokens[:, ::5] = tokens[:, :1]  # equal ones, at the threshold or not
    index, sizes = matched_index.launch(tokens, *arguments)
    slot = check_valid(index, sizes, tokens, len(arguments[1]), arguments[2])
    check_best(slot, tokens, *arguments)


@pytest.mark.parametrize('most', [256, 4096])
@pytest.mark.parametrize('num_kept', [0, 1, 7, 290, 299, 300])
@pytest.mark.parametrize('kind', ['equal', 'zeros', 'two'])
def test_of_equal_sources_exactly_as_many_are_kept(kind, num_kept, most, monkeypatch):
    monkeypatch.setattr(matching, 'MOST', most)
    tokens = torch.ones(2, 400, 8, device=DEVICE)
    if kind == 'two':
        tokens[:, ::2, :4] = -1
    if kind == 'zeros':
        tokens.zero_()
    sources, destinations = split((20, 20), 2)
    index, sizes = matched_index.launch(tokens, sources, destinations, num_kept)
    slot = check_valid(index, sizes, tokens, len(destinations), num_kept)
    check_best(slot, tokens, sources, destinations, num_kept)
    if kind != 'two':  # the first ones, and the first destination
        assert slot[0, sources].tolist() == [*range(num_kept), *[num_kept] * (300 - num_kept)]


def test_a_destination_of_zeros_is_like_no_other():
    tokens = torch.randn(1, 16, 8, device=DEVICE).abs()
    sources, destinations = split((4, 4), 2)
    tokens[:, destinations[1:]] = 0
    index, _ = matched_index.launch(tokens, sources, destinations, 0)
    assert index[0, sources].eq(0).all()  # all are like the first, which is not zero


def test_a_token_of_zeros_is_like_no_other():
    tokens, sources, destinations, _ = problem((6, 6), 8, 2, 0.5, 1)
    tokens.abs_()
    tokens[0, sources[11]] = 0
    index, _ = matched_index.launch(tokens, sources, destinations, 1)
    assert index[0, sources[11]] == 0
    tokens.copy_(-tokens.clone())
    tokens[0, sources] *= -1  # now it is the best of all
    index, _ = matched_index.launch(tokens, sources, destinations, 26)
    assert index[0, sources[11]] == 26


@pytest.mark.parametrize('factor', [1e-6, 1e3])
def test_neither_length_nor_sign_of_all_matters(factor):
    tokens, *arguments = problem((12, 10), 24, 2, 0.6, 2)
    found = matched_index.launch(tokens, *arguments)[0]
    lengths = torch.rand(2, 120, 1, device=DEVICE) + 0.5
    scaled = matched_index.launch(tokens * lengths * -factor, *arguments)[0]
    assert (found == scaled).float().mean() > 0.97
    tokens[:, arguments[0]] *= -1  # but that of one side does
    assert (matched_index.launch(tokens, *arguments)[0] == found).float().mean() < 0.8


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf'), 3e38])
@pytest.mark.parametrize('where', ['all', 'sources', 'destinations', 'some', 'numbers'])
def test_whatever_the_tokens_are_slots_are_valid(bad, where):
    """A slot out of range would be memory of others on a GPU."""
    tokens, sources, destinations, num_kept = problem((13, 12), 12, 2, 0.5, 2)
    if where == 'numbers':
        tokens[torch.rand_like(tokens) < 0.05] = bad
    else:
        some = torch.randperm(156, device=DEVICE)[:40]
        names = dict(all=slice(None), sources=sources, destinations=destinations, some=some)
        tokens[:, names[where]] = bad
    index, sizes = matched_index.launch(tokens, sources, destinations, num_kept)
    check_valid(index, sizes, tokens, len(destinations), num_kept)


def test_a_token_that_is_nan_stays_alone():
    tokens, sources, destinations, _ = problem((6, 6), 8, 2, 0.5, 1)
    tokens[0, sources[5]] = tokens[0, destinations[3]] = float('nan')
    index, sizes = matched_index.launch(tokens, sources, destinations, 1)
    assert index[0, sources[5]] == 0 and sizes[0, 1 + 3] == 1


def test_one_source_and_one_destination():
    tokens = torch.randn(2, 2, 3, device=DEVICE)
    sources, destinations = torch.tensor([[1], [0]], device=DEVICE)
    index, sizes = matched_index.launch(tokens, sources, destinations, 0)
    assert index.tolist() == [[0, 0], [1, 1]] and sizes.tolist() == [[2], [2]]


@pytest.mark.parametrize('layout', ['channels first', 'part of a batch', 'part of tokens'])
def test_tokens_lie_in_memory_as_they_like(layout):
    tokens, *arguments = problem((8, 10), 24, 2, 0.6, 2)
    expected = matched_index.launch(tokens, *arguments)
    if layout == 'channels first':
        tokens = tokens.mT.contiguous().mT
    elif layout == 'part of a batch':
        tokens = torch.stack([tokens, torch.randn_like(tokens)], 1)[:, 0]
    else:
        tokens = torch.cat([tokens, torch.randn_like(tokens)], 2)[..., :24]
    assert not tokens.is_contiguous()
    sources, destinations, num_kept = arguments
    sources = sources.repeat_interleave(2)[::2]
    for one, other in zip(
        matched_index.launch(tokens, sources, destinations, num_kept), expected, strict=True
    ):
        assert torch.equal(one, other)


def test_wrong_groups_are_noticed_when_the_kernel_is_tried():
    arguments = matched_index.example(DEVICE, torch.float32)
    index, sizes = expected = matched_index.reference(*arguments)
    assert matched_index.agrees(expected, expected)
    assert not matched_index.agrees((index.roll(1, 1), sizes), expected)
    assert not matched_index.agrees((index, sizes.roll(1, 1)), expected)
    shifted = matched_index.reference(arguments[0].roll(1, 1), *arguments[1:])
    assert not matched_index.agrees(shifted, expected)


@pytest.mark.parametrize('kind, size', [('*bf16', 2), ('*fp32', 4)])
def test_matching_compiles_without_spilling(kind, size):
    types = dict(tokens=kind, sources='*i64', destinations='*i64', best='*i32', nearest='*i32')
    fixed = dict(SOURCES=SOURCES, DESTINATIONS=DESTINATIONS, DEPTH=DEPTH // size, ONE=ONE)
    variants = [
        (
            types,
            dict(fixed, UPCAST=False, channels=c, stride_n=c, stride_b=2048 * c, stride_c=1),
            {},
        )
        for c in (64, 320, 512)
    ]
    check_compiled(_match, variants)


def test_selection_compiles_without_spilling():
    types = dict(best='*i32', nearest='*i32', sources='*i64', destinations='*i64')
    types |= dict(index='*i64', sizes='*i64')
    widths = [256, 2048, matching.MOST]
    check_compiled(
        _select, [(types, dict(WIDTH=w, ONE=ONE), dict(num_warps=w // 256)) for w in widths]
    )
