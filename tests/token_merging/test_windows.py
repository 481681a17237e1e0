"""Local window merging against its definition, written out window by window."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from segformer_plusplus.errors import TokenMergingError
from segformer_plusplus.token_merging import LocalWindowMerging, build_token_merging
from segformer_plusplus.token_merging.windows import window_similarity

CASES = pytest.mark.parametrize(
    'grid, stride', [((8, 8), (2, 2)), ((7, 13), (2, 3)), ((9, 4), (4, 4)), ((1, 9), (1, 2))]
)


def windows_of(grid, stride):
    """The tokens of every whole window."""
    for y in range(0, grid[0] - stride[0] + 1, stride[0]):
        for x in range(0, grid[1] - stride[1] + 1, stride[1]):
            rows, columns = range(y, y + stride[0]), range(x, x + stride[1])
            yield [row * grid[1] + column for row, column in itertools.product(rows, columns)]


def similarity_of(tokens, window):
    unit = F.normalize(tokens[window], dim=-1)
    pairs = [(unit[a] @ unit[b]).item() for a, b in itertools.combinations(range(len(window)), 2)]
    return sum(pairs) / len(pairs)


def merged_by_hand(tokens, windows):
    expected = tokens.clone()
    for window in windows:
        expected[window] = tokens[window].mean(0)
    return expected


@CASES
def test_similarity_is_the_mean_cosine_of_all_pairs(grid, stride):
    tokens = torch.randn(2, grid[0] * grid[1], 5, dtype=torch.float64)
    tokens[1, ::3] = 0  # a token of zeros is like no other
    actual = window_similarity(tokens, grid, stride).flatten(1)
    expected = [[similarity_of(each, w) for w in windows_of(grid, stride)] for each in tokens]
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


@CASES
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_similarity_is_as_precise_under_autocast(grid, stride, dtype):
    tokens = torch.randn(2, grid[0] * grid[1], 5).to(dtype)
    expected = window_similarity(tokens, grid, stride)
    with torch.autocast('cpu', dtype=dtype):
        actual = window_similarity(tokens, grid, stride)
    assert actual.dtype == torch.float32 and torch.equal(actual, expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_similarity_is_as_precise_under_autocast_on_a_gpu(no_gpu, dtype):
    with no_gpu, torch.autocast('cuda', dtype=dtype):
        tokens = torch.empty(2, 12, 5, device='cuda', dtype=dtype)
        assert window_similarity(tokens, (3, 4), (2, 2)).dtype == torch.float32


@CASES
@pytest.mark.parametrize('share', [0.3, 0.7, 1.0])
def test_a_ratio_merges_the_most_alike_windows(grid, stride, share):
    tokens = torch.randn(2, grid[0] * grid[1], 5, dtype=torch.float64)
    size = stride[0] * stride[1]
    ratio = share * (1 - 1 / size)
    plan = LocalWindowMerging(ratio, stride=stride).plan(tokens, grid)
    windows = list(windows_of(grid, stride))
    count = min(int(grid[0] * grid[1] * ratio) // (size - 1), len(windows))
    assert plan.num_merged == grid[0] * grid[1] - count * (size - 1)
    for each, actual in zip(tokens, plan.unmerge(plan.merge(tokens)), strict=True):
        best = sorted(windows, key=lambda w, each=each: -similarity_of(each, w))[:count]
        torch.testing.assert_close(actual, merged_by_hand(each, best))


def test_a_batch_of_none():
    tokens = torch.zeros(0, 12, 3)
    plan = LocalWindowMerging(0.5).plan(tokens, (3, 4))
    assert plan.unmerge(plan.merge(tokens)).shape == tokens.shape


def test_a_threshold_is_no_setting_any_more():
    message = r"argument: 'ratio'; it takes \['ratio', 'stride'\], found \['threshold'\]"
    with pytest.raises(TokenMergingError, match=message):
        build_token_merging([dict(q=dict(type='LocalWindowMerging', threshold=0.8))] * 4)
