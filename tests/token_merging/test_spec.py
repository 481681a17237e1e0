"""What a config may say, and what it may not."""

import pytest

from segformer_plusplus.errors import TokenMergingError
from segformer_plusplus.token_merging import (
    PRESETS,
    TOKEN_MERGERS,
    BipartiteSoftMatching2d,
    IdentityPlan,
    NeighborMerging2d,
    TokenMerger,
    build_token_merging,
    read_tome_cfg,
)

HQ = [
    dict(kv_mode='bsm', kv_r=0.6, kv_sx=2, kv_sy=2),
    dict(kv_mode='bsm', kv_r=0.6, kv_sx=2, kv_sy=2),
    dict(q_mode='bsm', q_r=0.8, q_sx=4, q_sy=4),
    dict(q_mode='bsm', q_r=0.8, q_sx=4, q_sy=4),
]


def settings(merging):
    return repr(merging.stages)


def test_presets_merge_what_the_paper_says():
    hq, fast, two = (build_token_merging(name).stages for name in ('hq', 'fast', '2x2'))
    for stages, kv, q in ((hq, (0.6, (2, 2)), (0.8, (4, 4))), (fast, (0.9, (4, 4)), (0.9, (4, 4)))):
        for stage in stages[:2]:
            assert stage.q is None
            assert isinstance(stage.kv, BipartiteSoftMatching2d)
            assert (stage.kv.ratio, stage.kv.stride) == kv
        for stage in stages[2:]:
            assert stage.kv is None
            assert isinstance(stage.q, BipartiteSoftMatching2d)
            assert (stage.q.ratio, stage.q.stride) == q
    for stage in two:
        assert isinstance(stage.q, NeighborMerging2d) and stage.q.stride == (2, 2)
        assert stage.kv is None
    assert all(s.q is None and s.kv is None for s in build_token_merging('none').stages)
    shrink = build_token_merging('downsampling').downsampling
    assert (shrink.factor, shrink.mode) == (2, 'nearest')


def test_our_presets_use_proportional_attention():
    expected = {
        'weighted': [(0.8, (3, 3)), (0.5, (2, 2)), (0.8, (3, 3)), (0.5, (2, 2))],
        'weighted-fast': [*[(0.88, (3, 3))] * 3, (0.5, (2, 2))],
    }
    for name, matchings in expected.items():
        stages = build_token_merging(name).stages
        for stage, matching in zip(stages, matchings, strict=True):
            assert stage.q is None and stage.share == 1
            assert isinstance(stage.kv, BipartiteSoftMatching2d)
            assert (stage.kv.ratio, stage.kv.stride) == matching
            assert stage.proportional_attention == 'sampled'


def test_options_of_a_stage():
    stage = dict(kv='NeighborMerging2d', proportional_attention=True, share=3)
    unset = dict(stage, proportional_attention=None, share=None)
    built = build_token_merging([stage, unset, {}, {}]).stages
    assert (built[0].proportional_attention, built[0].share) == (True, 3)
    sampled = [dict(stage, proportional_attention='sampled')] * 4
    assert build_token_merging(sampled).stages[3].proportional_attention == 'sampled'
    assert (built[1].proportional_attention, built[1].share) == (False, 1)


def test_the_old_name_of_proportional_attention_works():
    kv = dict(kv='NeighborMerging2d')
    new = build_token_merging([dict(kv, proportional_attention=True), kv], 2)
    with pytest.warns(FutureWarning, match='stage 1: weigh_keys is proportional_attention now'):
        old = build_token_merging([dict(kv, weigh_keys=True), kv], 2)
    assert repr(old) == repr(new)


def test_every_preset_but_none_does_something():
    for name in PRESETS:
        merging = build_token_merging(name)
        acts = merging.downsampling is not None or any(s.q or s.kv for s in merging.stages)
        assert acts == (name != 'none')


@pytest.mark.parametrize(
    'tome_cfg, preset',
    [
        (HQ, 'hq'),
        ('bsm_hq', 'hq'),
        ('bsm_fast', 'fast'),
        ('n2d_2x2', '2x2'),
        ([dict(q_mode='n2d', q_s=(2, 2))] * 4, '2x2'),
        ([dict(q_mode=None, kv_mode=None)] * 4, 'none'),
        ([{}] * 4, 'none'),
    ],
)
def test_original_spelling(tome_cfg, preset):
    assert settings(build_token_merging(read_tome_cfg(tome_cfg))) == settings(
        build_token_merging(preset)
    )


@pytest.mark.parametrize(
    'tome_cfg, words',
    [
        ('bsm_slow', ['bsm_slow', 'bsm_hq']),
        ([dict(kv_mode='bsm_r2D', kv_r=0.9, kv_sx=4, kv_sy=4)], ['stage 1', 'bsm_r2D', 'n1d']),
        ([{}, dict(kv_ratio=0.9)], ['stage 2', 'kv_ratio', 'kv_r']),
        ([dict(kv_mode='bsm', kv_r=0.9)], ['kv_mode', 'kv_sx', 'kv_r']),
        ([dict(q_mode='n2d', q_s=2, q_r=0.5)], ['q_r', 'q_s']),
        ([dict(q_r=0.5)], ['q_r', 'None']),
        ([3], ['one dict per stage']),
        ([dict(q_mode=['bsm'])], ['q_mode']),
        (dict(q_mode='n2d'), ['one dict per stage']),
    ],
)
def test_original_spelling_mistakes(tome_cfg, words):
    with pytest.raises(ValueError) as error:
        read_tome_cfg(tome_cfg)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    'token_merging, words',
    [
        ('hd', ['hd', 'hq', 'fast', '2x2', 'downsampling']),
        ([{}] * 3, ['3 stages', '4']),
        (3, ['3', 'list']),
        ([dict(k='NeighborMerging2d'), {}, {}, {}], ['stage 1', "'k'", "'kv'"]),
        ([{}, {}, {}, 'hq'], ['stage 4', 'hq']),
        ([dict(q='Nope')] * 4, ['stage 1, q', 'Nope', 'NeighborMerging2d']),
        ([dict(q=dict(stride=2))] * 4, ['stage 1, q', 'type']),
        ([dict(q=dict(type=''))] * 4, ['stage 1, q']),
        ([dict(q=dict(type='NeighborMerging2d', size=2))] * 4, ['size', 'stride']),
        ([dict(kv=dict(type='BipartiteSoftMatching2d'))] * 4, ['ratio']),
        (
            [dict(kv=dict(type='BipartiteSoftMatching2d', ratio=0.9))] * 4,
            ['stage 1, kv', '0.9', '0.75'],
        ),
        (
            [dict(q='NeighborMerging2d', proportional_attention=True)] * 4,
            ['stage 1', 'proportional_attention', 'no kv'],
        ),
        (
            [dict(kv='NeighborMerging2d', proportional_attention=1)] * 4,
            ['proportional_attention=1', "True, False or 'sampled'"],
        ),
        (
            [dict(kv='NeighborMerging2d', proportional_attention=True, weigh_keys=True)] * 4,
            ['stage 1', 'weigh_keys is proportional_attention now', 'only'],
        ),
        ([dict(kv='NeighborMerging2d', share=0)] * 4, ['share=0', '1 or more']),
        ([dict(kv='NeighborMerging2d', share=2.0)] * 4, ['share=2.0', '1 or more']),
        ([{}, dict(share=2), {}, {}], ['stage 2', 'share=2', 'neither q nor kv']),
        ([dict(share_plans=2)] * 4, ["'share_plans'", "'share'", "'proportional_attention'"]),
        (dict(downsampling=dict(factor=2, mode='nearest')), ['stages']),
        (dict(stages=[{}] * 4, downsampling=2), ['factor', 'mode']),
        (dict(stages=[{}] * 4, downsampling=dict(factor=1, mode='nearest')), ['factor=1']),
        (dict(stages=[{}] * 4, downsampling=dict(factor=2, mode='cubic')), ['cubic', 'bilinear']),
    ],
)
def test_mistakes(token_merging, words):
    with pytest.raises(ValueError) as error:
        build_token_merging(token_merging)
    assert '\n' not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_presets_with_strategies_need_four_stages():
    with pytest.raises(ValueError, match="'hq'.*4 stages given.*has 2"):
        build_token_merging('hq', num_stages=2)
    assert len(build_token_merging('none', num_stages=2).stages) == 2


@pytest.fixture
def registered():
    @TOKEN_MERGERS.register_module()
    class KeepAll(TokenMerger):
        def __init__(self, note: str = '') -> None:
            self.note = note

        def plan(self, tokens, grid):
            return IdentityPlan(tokens.shape[1], tokens.device)

    yield KeepAll
    TOKEN_MERGERS.module_dict.pop('KeepAll')


def test_a_users_own_strategy(registered):
    stages = [dict(q='KeepAll'), dict(kv=dict(type='KeepAll', note='mine')), dict(q=registered), {}]
    merging = build_token_merging(stages)
    assert isinstance(merging.stages[0].q, registered)
    assert merging.stages[1].kv.note == 'mine'
    assert isinstance(merging.stages[2].q, registered)


def test_a_class_that_is_no_strategy():
    @TOKEN_MERGERS.register_module(name='NotAMerger')
    class NotAMerger:
        pass

    try:
        with pytest.raises(ValueError, match='not a TokenMerger'):
            build_token_merging([dict(q='NotAMerger')] * 4)
    finally:
        TOKEN_MERGERS.module_dict.pop('NotAMerger')


def test_a_strategy_in_the_place_of_a_preset():
    with pytest.raises(TokenMergingError, match=r'is a strategy, not a preset: .*\[dict\(kv='):
        build_token_merging('NeighborMerging2d')
