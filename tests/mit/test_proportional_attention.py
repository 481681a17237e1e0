"""Proportional attention, where a merged key counts for all its tokens; plans that blocks share."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from segformer_plusplus import TOKEN_MERGERS, MixVisionTransformerPlusPlus, TokenMerger
from segformer_plusplus.mit import cpu
from segformer_plusplus.mit.attention import (
    SAMPLES,
    EfficientAttention,
    merge_by_attention,
    sample_tokens,
)
from segformer_plusplus.token_merging import BipartiteSoftMatching2d, IdentityPlan, StageMerging
from segformer_plusplus.token_merging.plans import SlotPlan

DIMS = 24


def attention(merging, num_heads, sr_ratio=1):
    module = EfficientAttention(
        DIMS, num_heads, sr_ratio, True, 0.0, 0.0, torch.nn.LayerNorm(DIMS), merging
    )
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval()


def proportional(kv, how=True):
    return StageMerging(kv=kv, proportional_attention=how)


either_way = pytest.mark.parametrize('how', [True, 'sampled'])


def plain_attention(module, query, key_value, mask=None):
    """PyTorch's own, which builds the map: tokens (B, N, C), mask (B, M) on the scores."""
    if mask is not None:
        mask = mask[:, None, None].expand(-1, module.num_heads, query.shape[1], -1).flatten(0, 1)
    query, key_value = query.transpose(0, 1), key_value.transpose(0, 1)
    return module.attn(query, key_value, key_value, attn_mask=mask)[0].transpose(0, 1)


def repeated_tokens(batch, dtype=torch.float64):
    """Tokens of a 6x8 grid that are equal in groups of random sizes: (B, 48, C)."""
    kinds = torch.randn(batch, 5, DIMS, dtype=dtype)
    group = torch.multinomial(torch.tensor([8.0, 4, 2, 1, 1]), 48, replacement=True)
    return kinds[:, group], group


class Given(TokenMerger):
    def __init__(self, group):
        self.group = group

    def plan(self, tokens, grid):
        _, slot = self.group.unique(return_inverse=True)
        return SlotPlan(slot.expand(len(tokens), -1), int(slot.max()) + 1)


@pytest.mark.parametrize('num_heads', [1, 3])
@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('chunked', [True, False])
@either_way
def test_equal_keys_that_are_merged_change_nothing(num_heads, batch, chunked, how):
    """The reference is the attention of PyTorch over all tokens, with its weights."""
    tokens, group = repeated_tokens(batch)
    module = attention(proportional(Given(group), how), num_heads)
    module = module.double()
    with torch.inference_mode(), cpu.chunked(chunked):
        expected = plain_attention(module, tokens, tokens)
        actual = module(tokens, (6, 8))
        module.merging = StageMerging(kv=Given(group))
        other = module(tokens, (6, 8))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    assert (other - expected).abs().max() > 1e-3


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('num_heads', [1, 3])
@pytest.mark.parametrize('chunked', [True, False])
def test_scores_get_the_logarithm_of_the_sizes(dtype, num_heads, chunked):
    tokens = torch.randn(2, 48, DIMS, dtype=dtype)
    kv = BipartiteSoftMatching2d(0.6, 2)
    module = attention(proportional(kv), num_heads).to(dtype)
    plan = kv.plan(tokens, (6, 8))
    with torch.inference_mode(), cpu.chunked(chunked):
        mask = plan.sizes().to(dtype).log()
        expected = plain_attention(module, tokens, plan.merge(tokens), mask)
        actual = module(tokens, (6, 8))
    tolerance = dict(rtol=1e-4, atol=1e-5) if dtype == torch.float32 else {}
    torch.testing.assert_close(actual, expected, **tolerance)


class Nothing(TokenMerger):
    def plan(self, tokens, grid):
        return IdentityPlan(tokens.shape[1], tokens.device)


@either_way
def test_where_nothing_is_merged_there_is_no_mask(monkeypatch, how):
    """It would be of zeros, and cost the fastest attention."""
    masks = []
    attend = F.scaled_dot_product_attention

    def spy(*args, attn_mask=None, **kwargs):
        masks.append(attn_mask)
        return attend(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', spy)
    module = attention(proportional(Nothing(), how), 3)
    tokens = torch.randn(2, 48, DIMS)
    actual = module(tokens, (6, 8))
    assert masks == [None]
    module.merging = StageMerging()
    assert torch.equal(actual, module(tokens, (6, 8)))


@pytest.mark.parametrize('num_heads', [1, 3])
@either_way
def test_gradients(num_heads, how):
    """In training: the same as without merging where the merged keys are equal."""
    tokens, group = repeated_tokens(2)
    module = attention(proportional(Given(group), how), num_heads).double().train()
    gradients = []
    for merging in (module.merging, StageMerging()):
        module.merging = merging
        leaf = tokens.clone().requires_grad_()
        module(leaf, (6, 8)).square().sum().backward()
        sums = torch.zeros(2, 5, DIMS, dtype=torch.float64).index_add(1, group, leaf.grad)
        gradients.append([sums, *(p.grad.clone() for p in module.parameters())])
        module.zero_grad()
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@either_way
def test_half_precision(dtype, how):
    tokens = torch.randn(2, 48, DIMS)
    merging = proportional(BipartiteSoftMatching2d(0.7, 2), how)
    module = attention(merging, 3, sr_ratio=1)
    with torch.inference_mode():
        exact = module(tokens, (6, 8))
        with torch.autocast('cpu', dtype=dtype):
            half = module(tokens, (6, 8))
    assert torch.isfinite(half).all()
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_changes_neither_matching_nor_merging(dtype):
    tokens, query, key, value = torch.randn(4, 2, 48, DIMS)
    merger, results = BipartiteSoftMatching2d(0.7, 2), []
    for amp in (False, True):
        with torch.autocast('cpu', dtype=dtype, enabled=amp):
            plan = merger.plan(tokens, (6, 8))
            merged = merge_by_attention(plan, query[:, :9], key, value, 2)
        results.append((plan.merge(tokens), *merged))
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, torch.float64])
@either_way
def test_the_mask_has_the_type_of_the_queries(monkeypatch, dtype, how):
    """Kernels of GPUs refuse another one."""
    seen, real = [], F.scaled_dot_product_attention

    def spy(query, *args, attn_mask=None, **kwargs):
        seen.append((query.dtype, attn_mask.dtype, attn_mask.stride(-1)))
        return real(query, *args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', spy)
    module = attention(proportional(BipartiteSoftMatching2d(0.7, 2), how), 3).to(dtype)
    module(torch.randn(2, 48, DIMS, dtype=dtype), (6, 8))
    assert seen == [(dtype, dtype, 1)]


def groups_of(tokens, groups=5):
    """A random plan of so many groups: (B, N) slots, each in use."""
    slot = torch.randint(groups, tokens.shape[:2])
    slot[:, :groups] = torch.arange(groups)
    return slot, SlotPlan(slot, groups)


def merged_one_by_one(slot, query, key, value, num_heads):
    """The same in loops, from the definition: keys, values, and how often each counts."""
    dims = key.shape[-1] // num_heads
    keys, values, counts = (torch.zeros(len(key), slot.max() + 1, key.shape[-1]) for _ in range(3))
    for b, group in itertools.product(range(len(key)), range(int(slot.max()) + 1)):
        for head in range(num_heads):
            part = slice(head * dims, (head + 1) * dims)
            q, k, v = (each[b, :, part].double() for each in (query, key, value))
            member = slot[b] == group
            scores = q @ k.T / dims**0.5
            paid = scores.softmax(1).mean(0)[member]
            mean = (paid[:, None] * k[member]).sum(0) / paid.sum()
            once = ((q @ mean) / dims**0.5).exp() / scores.exp().sum(1)
            keys[b, group, part] = mean
            values[b, group, part] = (paid[:, None] * v[member]).sum(0) / paid.sum()
            counts[b, group, part] = (paid.sum() / once.mean()).clamp(1, member.sum())
    return keys, values, counts[..., ::dims].transpose(1, 2)


@pytest.mark.parametrize('num_heads', [1, 3])
def test_keys_and_values_merged_by_the_attention_of_a_sample(num_heads):
    query = torch.randn(2, 7, DIMS)
    key, value = torch.randn(2, 2, 30, DIMS)
    slot, plan = groups_of(key)
    keys, values, bias = merge_by_attention(plan, query, key, value, num_heads)
    expected = merged_one_by_one(slot, query, key, value, num_heads)
    torch.testing.assert_close(keys, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values, expected[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bias.exp(), expected[2], rtol=1e-4, atol=1e-5)


def test_a_group_that_no_query_looks_at():
    """Its attention is 0 in float32: it is averaged equally, and counts within its bounds."""
    key = torch.randn(1, 12, DIMS)
    key[0, 6:, 0] = -1e4
    query = torch.zeros(1, 4, DIMS)
    query[..., 0] = 5
    plan = SlotPlan(torch.arange(12).view(1, 12) // 6, 2)
    keys, values, bias = merge_by_attention(plan, query, key, key, 1)
    torch.testing.assert_close(values[:, 1], key[:, 6:].mean(1))
    assert torch.isfinite(bias).all() and (bias >= 0).all() and (bias.exp() <= 6.001).all()


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('num_heads', [1, 3])
def test_nearer_to_the_attention_without_merging(num_heads, seed):
    """Where the tokens of a group differ, those that are looked at say more than the others."""
    torch.manual_seed(seed)
    tokens = torch.randn(2, 24 * 24, DIMS)
    module = attention(StageMerging(), num_heads)
    errors = {}
    with torch.inference_mode():
        exact = module(tokens, (24, 24))
        for how in (False, True, 'sampled'):
            module.merging = proportional(BipartiteSoftMatching2d(0.7, 2), how)
            errors[how] = (module(tokens, (24, 24)) - exact).norm()
    assert errors['sampled'] < 0.8 * errors[True]


@pytest.mark.parametrize('grid', [(6, 8), (1, 1), (3, 50), (17, 23)])
def test_the_sample_covers_the_grid(grid):
    height, width = grid
    tokens = torch.stack(
        torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij'), -1
    )
    taken = sample_tokens(tokens.view(1, -1, 2), grid)[0]
    for axis, side in enumerate(grid):
        places = sorted(set(taken[:, axis].tolist()))
        assert min(side, SAMPLES) <= len(places) < 2 * SAMPLES
        assert places[0] <= side / SAMPLES and side - 1 - places[-1] <= side / SAMPLES + 1
    assert len(taken) == len(set(map(tuple, taken.tolist())))


def test_a_graph_takes_the_same_sample(monkeypatch):
    tokens = torch.randn(2, 17 * 23, DIMS)
    expected = sample_tokens(tokens, (17, 23))
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)
    assert torch.equal(sample_tokens(tokens, (17, 23)), expected)


def test_a_module_that_was_changed_merges_equally():
    """Who hangs a hook on the attention's module gets the attention that he can see."""
    tokens = torch.randn(2, 48, DIMS)
    module = attention(proportional(BipartiteSoftMatching2d(0.7, 2)), 3)
    expected = module(tokens, (6, 8))
    module.merging = proportional(module.merging.kv, 'sampled')
    assert not torch.allclose(module(tokens, (6, 8)), expected, rtol=1e-3, atol=1e-3)
    calls = []
    module.attn.register_forward_hook(lambda *_: calls.append(1))
    with pytest.warns(UserWarning, match="'sampled' is as True where a hook or an adapter"):
        actual = module(tokens, (6, 8))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert calls


@pytest.fixture
def plans_made():
    made = []

    @TOKEN_MERGERS.register_module()
    class Counting(BipartiteSoftMatching2d):
        def plan(self, tokens, grid):
            made.append(grid)
            return super().plan(tokens, grid)

    yield made
    TOKEN_MERGERS.module_dict.pop('Counting')


def backbone(token_merging, depth=5, **settings):
    torch.manual_seed(0)
    sizes = dict(embed_dims=8, num_layers=[depth] * 2, num_heads=[1, 2], num_stages=2)
    sizes |= dict(strides=[4, 2], patch_sizes=[7, 3], sr_ratios=[2, 1], out_indices=(0, 1))
    model = MixVisionTransformerPlusPlus(**sizes, token_merging=token_merging, **settings)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.double()


@pytest.mark.parametrize('share, groups', [(1, 5), (2, 3), (5, 1), (9, 1)])
def test_shared_plans_are_made_once(plans_made, share, groups):
    strategy = dict(type='Counting', ratio=0.5)
    model = backbone([dict(q=strategy, share=share), dict(kv=strategy, share=share)]).eval()
    for _ in range(2):  # nothing is left from one image to the next
        plans_made.clear()
        model(torch.randn(1, 3, 64, 96, dtype=torch.float64))
        assert plans_made == [(16, 24)] * groups + [(8, 12)] * groups


def test_sharing_a_plan_that_does_not_depend_on_the_tokens_changes_nothing():
    stages = [dict(q='NeighborMerging2d', kv='NeighborMerging1d')] * 2
    image = torch.randn(2, 3, 60, 84, dtype=torch.float64)
    one = backbone(stages).eval()(image)
    other = backbone([dict(stage, share=3) for stage in stages]).eval()(image)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@either_way
def test_sharing_with_gradient_checkpointing(how):
    kv = dict(type='BipartiteSoftMatching2d', ratio=0.5)
    stage = dict(kv=kv, proportional_attention=how, share=2)
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    gradients = []
    for with_cp in (False, True):
        model = backbone([stage] * 2, with_cp=with_cp, drop_path_rate=0.0).train()
        # two images before one backward pass: each has its own plans
        sum(f.square().mean() for each in (image, -image) for f in model(each)).backward()
        gradients.append([p.grad for p in model.parameters()])
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
