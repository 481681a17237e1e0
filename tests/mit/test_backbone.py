"""The backbone against mmseg's own, and what merging changes about it."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.registry import MODELS
from mmseg.models.backbones import MixVisionTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from segformer_plusplus import MixVisionTransformerPlusPlus, SegformerPlusPlusError
from segformer_plusplus.mit import cpu
from segformer_plusplus.mit.initialisation import initialise
from segformer_plusplus.token_merging import PRESETS, TOKEN_MERGERS, MergePlan, TokenMerger

TINY = dict(embed_dims=8, num_layers=[2, 1, 2, 1], num_heads=[1, 2, 5, 8])
BOTH = [dict(q='NeighborMerging2d', kv=dict(type='BipartiteSoftMatching1d', ratio=0.5))] * 4
STRATEGIES = [*PRESETS, BOTH]
SIZES = [(64, 64), (75, 101), (29, 50), (33, 160)]

by_strategy = pytest.mark.parametrize(
    'strategy', STRATEGIES, ids=lambda s: s if isinstance(s, str) else 'both'
)


def build_pair(seed=0, **kwargs):
    """Ours and mmseg's with the same random weights (biases and norms too)."""
    torch.manual_seed(seed)
    ours = MixVisionTransformerPlusPlus(**TINY, **kwargs)
    theirs = MixVisionTransformer(**TINY, **kwargs)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def relative_error(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('training', [False, True])
def test_equal_to_mmseg_without_merging(size, batch, training):
    ours, theirs = build_pair(seed=batch)
    ours.train(training)
    theirs.train(training)
    image = torch.randn(batch, 3, *size)
    for actual, expected in zip(ours(image), theirs(image), strict=True):
        assert actual.shape == expected.shape
        assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize('kwargs', [dict(qkv_bias=False), dict(out_indices=[1, 3], in_channels=4)])
def test_equal_to_mmseg_with_other_arguments(kwargs):
    ours, theirs = build_pair(**kwargs)
    image = torch.randn(1, kwargs.get('in_channels', 3), 64, 96)
    actual, expected = ours(image), theirs(image)
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) < 1e-5


def test_gradients_equal_mmseg_in_double_precision():
    ours, theirs = (model.double() for model in build_pair())
    image = torch.randn(2, 3, 64, 70, dtype=torch.float64)
    for model in (ours, theirs):
        sum(f.square().mean() for f in model(image)).backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-9, atol=1e-12)


def shapes(model):
    return {key: value.shape for key, value in model.state_dict().items()}


@pytest.mark.parametrize('arch', ['b0', 'b1', 'b2', 'b3', 'b4', 'b5'])
def test_state_dict_is_mmsegs(arch):
    sizes = dict(b0=(32, [2, 2, 2, 2]), b1=(64, [2, 2, 2, 2]), b2=(64, [3, 4, 6, 3]))
    sizes |= dict(b3=(64, [3, 4, 18, 3]), b4=(64, [3, 8, 27, 3]), b5=(64, [3, 6, 40, 3]))
    with torch.device('meta'):
        ours = MixVisionTransformerPlusPlus(arch=arch, token_merging='hq')
    theirs = MixVisionTransformer(
        embed_dims=sizes[arch][0], num_layers=sizes[arch][1], num_heads=[1, 2, 5, 8]
    )
    assert shapes(ours) == shapes(theirs)


def test_sizes_that_are_not_given_are_mmsegs():
    ours, theirs = MixVisionTransformerPlusPlus(), MixVisionTransformer()
    assert shapes(ours) == shapes(theirs)
    heads = [[layer.attn.attn.num_heads for layer in stage[1]] for stage in theirs.layers]
    assert [[block.attn.num_heads for block in stage[1]] for stage in ours.layers] == heads


def test_initialised_like_mmseg():
    torch.manual_seed(1)
    ours = MixVisionTransformerPlusPlus(arch='b0')
    ours.init_weights()
    torch.manual_seed(2)
    theirs = MixVisionTransformer(embed_dims=32, num_layers=[2] * 4, num_heads=[1, 2, 5, 8])
    theirs.init_weights()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        spread, expected = (p.detach().std(correction=0).item() for p in (a, b))
        assert spread == pytest.approx(expected, rel=0.15), name
        assert a.mean().item() == pytest.approx(b.mean().item(), abs=0.2 * expected), name


def test_a_convolution_that_is_not_square_is_initialised():
    conv = nn.Conv2d(64, 256, (2, 7))
    initialise(nn.Sequential(conv), None)
    assert conv.weight.std().item() == pytest.approx((2 / (2 * 7 * 256)) ** 0.5, rel=0.05)


@by_strategy
def test_autocast_in_float16(strategy):
    model = MixVisionTransformerPlusPlus(**TINY, token_merging=strategy)
    model.init_weights()
    image = torch.randn(2, 3, 130, 90)
    with torch.autocast('cpu', dtype=torch.float16):
        features = model(image)
    sum(f.float().mean() for f in features).backward()
    assert all(torch.isfinite(f).all() for f in features)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@by_strategy
def test_gradient_checkpointing_changes_nothing(strategy, monkeypatch):
    calls = []

    def counting(function, *args, **kwargs):
        calls.append(function)
        return checkpoint(function, *args, **kwargs)

    monkeypatch.setattr('segformer_plusplus.mit.backbone.checkpoint', counting)
    gradients = []
    for with_cp in (False, True):
        model = MixVisionTransformerPlusPlus(**TINY, token_merging=strategy, with_cp=with_cp)
        for parameter in model.parameters():
            torch.manual_seed(parameter.numel())
            torch.nn.init.normal_(parameter, std=0.2)
        image = torch.linspace(-1, 1, 3 * 90 * 130).sin().view(1, 3, 90, 130).requires_grad_()
        sum(f.square().mean() for f in model.train()(image)).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert len(calls) == sum(TINY['num_layers'])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def count_attended(model, image, monkeypatch):
    """(queries, keys) of every attention, by the fused call and chunked: the same ones."""
    fused, chunked = [], {}
    attend_fused, attend_chunk = F.scaled_dot_product_attention, cpu.KeyValue.attend

    def counting_fused(query, key, value, **kwargs):
        fused.append((query.shape[2], key.shape[2]))
        return attend_fused(query, key, value, **kwargs)

    def counting_chunks(self, query):
        queries, _ = chunked.get(self, (0, 0))
        chunked[self] = queries + len(query), self.keys.shape[1]
        return attend_chunk(self, query)

    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(F, 'scaled_dot_product_attention', counting_fused)
        patch.setattr(cpu.KeyValue, 'attend', counting_chunks)
        model(image)
        assert not fused
        with cpu.chunked(False):
            model(image)
    assert fused == list(chunked.values())
    return fused


@pytest.mark.parametrize(
    'strategy, expected',
    [
        # stages of a 256x256 image: 64x64, 32x32, 16x16, 8x8 queries and 8x8 keys each
        ('none', [(4096, 64), (1024, 64), (256, 64), (64, 64)]),
        ('hq', [(4096, 26), (1024, 26), (52, 64), (13, 64)]),
        ('fast', [(4096, 7), (1024, 7), (26, 64), (7, 64)]),
        ('2x2', [(1024, 64), (256, 64), (64, 64), (16, 64)]),
        ('downsampling', [(1024, 16), (256, 16), (64, 16), (16, 16)]),
        (BOTH, [(1024, 32), (256, 32), (64, 32), (16, 32)]),
    ],
)
def test_attended_tokens_really_drop(strategy, expected, monkeypatch):
    model = MixVisionTransformerPlusPlus(**TINY, token_merging=strategy).eval()
    seen = count_attended(model, torch.randn(1, 3, 256, 256), monkeypatch)
    assert seen == [e for e, n in zip(expected, TINY['num_layers'], strict=True) for _ in range(n)]


def test_merging_equals_merging_by_hand():
    """Queries and keys merged outside the model, attention by nn.MultiheadAttention."""
    stages = [dict(q='NeighborMerging2d', kv=dict(type='BipartiteSoftMatching2d', ratio=0.5)), {}]
    model = MixVisionTransformerPlusPlus(
        embed_dims=8, num_stages=2, num_layers=[1, 1], num_heads=[2, 4], patch_sizes=[7, 3],
        strides=[4, 2], sr_ratios=[2, 1], out_indices=[0, 1], token_merging=stages,
    ).double().eval()  # fmt: skip
    attention = model.layers[0][1][0].attn
    tokens, grid = torch.randn(2, 96, 16, dtype=torch.float64), (8, 12)

    image = tokens.transpose(1, 2).reshape(2, 16, 8, 12)
    kv = attention.norm(attention.sr(image).flatten(2).transpose(1, 2))
    kv = attention.merging.kv.plan(kv, (4, 6)).merge(kv)
    query = F.avg_pool2d(image, 2).flatten(2).transpose(1, 2)
    out = attention.attn(*(t.transpose(0, 1) for t in (query, kv, kv)))[0].transpose(0, 1)
    out = out.transpose(1, 2).reshape(2, 16, 4, 6).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(attention(tokens, grid), out.flatten(2).transpose(1, 2))


def test_tome_cfg_is_token_merging():
    tome_cfg = [dict(kv_mode='bsm', kv_r=0.6, kv_sx=2, kv_sy=2)] * 2
    tome_cfg += [dict(q_mode='bsm', q_r=0.8, q_sx=4, q_sy=4)] * 2
    theirs = MixVisionTransformerPlusPlus(**TINY, tome_cfg=tome_cfg)
    ours = MixVisionTransformerPlusPlus(**TINY, token_merging='hq')
    assert repr(theirs.token_merging) == repr(ours.token_merging)
    inherited = MixVisionTransformerPlusPlus(**TINY, token_merging='none', tome_cfg='bsm_hq')
    assert repr(inherited.token_merging) == repr(ours.token_merging)


def test_downsampling_is_the_halved_image():
    image = torch.randn(1, 3, 131, 160)
    for mode in ('nearest', 'bilinear'):
        stages = dict(stages=[{}] * 4, downsampling=dict(factor=2, mode=mode))
        model = MixVisionTransformerPlusPlus(**TINY, token_merging=stages).eval()
        plain = MixVisionTransformerPlusPlus(**TINY).eval()
        plain.load_state_dict(model.state_dict())
        small = F.interpolate(image, size=(65, 80), mode=mode)
        for a, b in zip(model(image), plain(small), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize('rate', [0.0, 0.3])
@pytest.mark.parametrize('layers', [[2, 1, 2, 1], [3, 4, 6, 3], [1, 1, 1, 1]], ids=str)
def test_rates_of_dropout_are_those_of_mmseg(rate, layers):
    rates = dict(drop_path_rate=rate, drop_rate=rate / 2, attn_drop_rate=rate / 3)
    settings = dict(TINY, num_layers=layers, **rates)
    ours, theirs = MixVisionTransformerPlusPlus(**settings), MixVisionTransformer(**settings)
    blocks = [[b for _, bs, _ in model.layers for b in bs] for model in (ours, theirs)]
    for one, other in zip(*blocks, strict=True):
        expected = getattr(other.ffn.dropout_layer, 'drop_prob', 0.0)
        assert one.drop_path.drop_prob == pytest.approx(expected)
        assert one.attn.attn.dropout == other.attn.attn.dropout
        assert one.attn.proj_drop.p == other.attn.proj_drop.p
        for place in (3, 5):
            assert one.ffn.layers[place].p == other.ffn.layers[place].p
    found = [one.drop_path.drop_prob for one in blocks[0]]
    assert found[0] == 0 and found[-1] == pytest.approx(rate)


SHARED = [dict(kv=dict(type='BipartiteSoftMatching1d', ratio=0.4), share=2)] * 4
DOWN = dict(stages=[dict(q='NeighborMerging2d')] * 4, downsampling=dict(factor=2, mode='bilinear'))


def test_another_strategy_leaves_nothing_of_the_one_before():
    """Downsampling, share, both sides of every stage: as a backbone that is built with the last."""
    strategies = [*PRESETS, SHARED, DOWN, BOTH]
    image, expected = torch.randn(1, 3, 128, 160, dtype=torch.float64), []
    model = MixVisionTransformerPlusPlus(**TINY).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.inference_mode():
        for strategy in strategies:
            fresh = MixVisionTransformerPlusPlus(**TINY, token_merging=strategy).double().eval()
            fresh.load_state_dict(model.state_dict(), strict=True)
            expected.append(fresh(image))
        for index in range(len(strategies)):  # no two have the same numbers
            for other in expected[:index]:
                assert relative_error(F.interpolate(other[3], (4, 5)), F.interpolate(
                    expected[index][3], (4, 5))) > 1e-6  # fmt: skip
        # every one after every other one
        order = [i for a in range(len(strategies)) for b in range(a) for i in (a, b)]
        for index in order:
            model.set_token_merging(strategies[index])
            for actual, wanted in zip(model(image), expected[index], strict=True):
                assert torch.equal(actual, wanted), strategies[index]


def test_a_plan_that_is_none():
    class Forgetful(TokenMerger):
        def plan(self, tokens, grid):
            pass

    model = MixVisionTransformerPlusPlus(arch='b0', token_merging=[dict(q=Forgetful())] * 4)
    with pytest.raises(SegformerPlusPlusError, match=r'Forgetful.*plan\(\) returns None'):
        model(torch.randn(1, 3, 64, 64))


def test_a_users_class_from_a_config():
    seen = []

    class HalfPlan(MergePlan):
        def __init__(self, tokens):
            super().__init__(tokens.shape[1], -(-tokens.shape[1] // 2))

        def merge(self, tokens):
            return tokens[:, ::2]

        def unmerge(self, tokens):
            return tokens.repeat_interleave(2, dim=1)[:, : self.num_tokens]

        def sizes(self):
            raise AssertionError('not needed here')

    @TOKEN_MERGERS.register_module()
    class EverySecond(TokenMerger):
        def plan(self, tokens, grid):
            seen.append(grid)
            return HalfPlan(tokens)

    try:
        cfg = dict(
            type='MixVisionTransformerPlusPlus',
            **TINY,
            token_merging=[dict(q='EverySecond'), {}, {}, {}],
        )
        model = MODELS.build(cfg)
        model(torch.randn(1, 3, 64, 96))
    finally:
        TOKEN_MERGERS.module_dict.pop('EverySecond')
    assert seen == [(16, 24)] * 2


@pytest.mark.parametrize(
    'kwargs, words',
    [
        (dict(arch='b6'), ['b6', 'b0', 'b5']),
        (dict(arch='b0', embed_dims=64), ['b0', 'embed_dims=64', '32']),
        (dict(arch='b0', num_layers=[1, 1, 1, 1]), ['num_layers', '(2, 2, 2, 2)']),
        (dict(num_layers=[1, 2]), ['num_layers', '2 entries', 'num_stages=4']),
        (dict(sr_ratios=[1, 2, 3]), ['sr_ratios', '3 entries']),
        (dict(arch='b0', sr_ratios=[0, 4, 2, 1]), ['sr_ratios', '[0, 4, 2, 1]', '>= 1']),
        (dict(arch='b0', frozen_stages=5), ['frozen_stages=5', '-1..4']),
        (dict(arch='b0', frozen_stages=-2), ['frozen_stages=-2', '>= -1']),
        (dict(arch='b0', drop_path_rate=1.5), ['drop_path_rate=1.5', '[0, 1)']),
        (dict(arch='b0', out_indices=[4]), ['out_indices', '[4]', '0..3']),
        (dict(arch='b0', token_merging='best'), ['best', 'hq']),
        (dict(arch='b0', token_merging='hq', tome_cfg='bsm_hq'), ['exclude']),
        (dict(arch='b0', pretrained='a.pth', init_cfg={}), ['exclude']),
    ],
)
def test_mistakes_are_named_at_build_time(kwargs, words):
    with pytest.raises(SegformerPlusPlusError) as error:
        MixVisionTransformerPlusPlus(**kwargs)
    for word in words:
        assert word in str(error.value)


FROZEN = {
    -1: (),
    0: ('layers.0.0.',),
    1: ('layers.0.',),
    2: ('layers.0.', 'layers.1.'),
    4: ('layers.',),
}


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('frozen', FROZEN)
def test_frozen_stages_stay_as_they_are(frozen, with_cp):
    torch.manual_seed(0)
    settings = dict(TINY, drop_rate=0.5, drop_path_rate=0.5, with_cp=with_cp, token_merging='hq')
    model = MixVisionTransformerPlusPlus(**settings, frozen_stages=frozen)
    model.init_weights()
    for mode in (True, False, True):
        assert model.train(mode) is model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(m.training is not n.startswith(FROZEN[frozen]) for n, m in leaves(model))
    image = torch.randn(2, 3, 64, 96)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    features = model(image)
    if frozen == 4:
        assert not any(each.requires_grad for each in features)
        return
    sum(each.square().sum() for each in features).backward()
    optimizer.step()
    for name, value in model.named_parameters():
        assert (value.grad is None) is name.startswith(FROZEN[frozen]), name
        assert torch.equal(value, before[name]) or not name.startswith(FROZEN[frozen])


def leaves(model):
    dropping = (torch.nn.Dropout, torch.nn.LayerNorm, DropPath)
    return [(n + '.', m) for n, m in model.named_modules() if isinstance(m, dropping)]


def test_a_frozen_stage_computes_what_it_does_in_inference():
    model = MixVisionTransformerPlusPlus(**TINY, drop_rate=0.5, frozen_stages=2, token_merging='hq')
    model.init_weights()
    image = torch.randn(1, 3, 64, 96)
    trained, expected = model.train()(image), model.eval()(image)
    for stage in (0, 1):
        torch.testing.assert_close(trained[stage], expected[stage])
    assert not torch.equal(trained[2], expected[2])


@pytest.mark.parametrize('size', [(28, 64), (64, 28)])
def test_an_image_smaller_than_the_smallest_grid(size):
    model = MixVisionTransformerPlusPlus(**TINY)
    with pytest.raises(
        SegformerPlusPlusError, match=f'{size[0]}x{size[1]} is too small.*29 pixels'
    ):
        model(torch.randn(1, 3, *size))


@pytest.mark.parametrize('preset', ['none', 'hq', 'weighted'])
@pytest.mark.parametrize('name', ['drop_rate', 'attn_drop_rate', 'drop_path_rate'])
def test_every_dropout_drops_in_training_alone(name, preset):
    model = MixVisionTransformerPlusPlus(**TINY, **{name: 0.5}, token_merging=preset)
    image = torch.randn(2, 3, 64, 64)
    for training in (True, False):
        first, second = (model.train(training)(image)[-1] for _ in range(2))
        assert torch.equal(first, second) != training
