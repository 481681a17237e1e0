"""Local window merging against its definition, written out window by window."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from segformer_plusplus import MixVisionTransformerPlusPlus
from segformer_plusplus.token_merging import LocalWindowMerging
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


@CASES
@pytest.mark.parametrize('threshold', [-1.0, 0.1, 1.0])
def test_a_threshold_merges_what_is_at_least_as_alike(grid, stride, threshold):
    tokens = torch.randn(3, grid[0] * grid[1], 5, dtype=torch.float64)
    plan = LocalWindowMerging(threshold=threshold, stride=stride).plan(tokens, grid)
    merged, sizes = plan.merge(tokens), plan.sizes()
    counts = []
    for each, actual in zip(tokens, plan.unmerge(merged), strict=True):
        alike = [w for w in windows_of(grid, stride) if similarity_of(each, w) >= threshold]
        torch.testing.assert_close(actual, merged_by_hand(each, alike))
        counts.append(len(each) - len(alike) * (stride[0] * stride[1] - 1))
    assert plan.num_merged == max(counts)
    assert plan.padded == (min(counts) < max(counts))
    assert (sizes > 0).sum(1).tolist() == counts
    assert (sizes.sum(1) == tokens.shape[1]).all()
    assert (merged[sizes == 0] == 0).all()


def test_a_batch_of_none():
    tokens = torch.zeros(0, 12, 3)
    plan = LocalWindowMerging(threshold=0.5).plan(tokens, (3, 4))
    assert plan.unmerge(plan.merge(tokens)).shape == tokens.shape


@pytest.mark.parametrize('proportional_attention', [False, True])
@pytest.mark.parametrize('training', [False, True])
def test_an_image_does_not_depend_on_the_others_of_its_batch(proportional_attention, training):
    """Images with other numbers of tokens are padded, and what is padding is not attended to."""
    stage = dict(
        q=dict(type='LocalWindowMerging', threshold=0.3),
        kv=dict(type='LocalWindowMerging', threshold=0.2),
        proportional_attention=proportional_attention,
    )
    model = MixVisionTransformerPlusPlus(
        embed_dims=8, num_layers=[1] * 4, num_heads=[1, 2, 5, 8], token_merging=[stage] * 4,
        drop_path_rate=0.0,
    ).double().train(training)  # fmt: skip
    images = torch.randn(3, 3, 96, 160, dtype=torch.float64)
    images[1] *= torch.linspace(0, 1, 160)
    with torch.set_grad_enabled(training):
        together = model(images)
        alone = [model(image[None]) for image in images]
    for stage_features, *single in zip(together, *alone, strict=True):
        torch.testing.assert_close(stage_features, torch.cat(single), rtol=1e-9, atol=1e-11)
