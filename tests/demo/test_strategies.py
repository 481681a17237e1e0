"""The strategies that the page offers, and what an address may say."""

import pytest
from hypothesis import given, settings, strategies as st

from segformer_plusplus.demo.strategies import (
    Ratios,
    Settings,
    make_strategy,
    preset_ratios,
    read_address,
)
from segformer_plusplus.errors import SegformerPlusPlusError, TokenMergingError
from segformer_plusplus.token_merging import build_token_merging
from segformer_plusplus.token_merging.config import PRESETS

ODD = st.text('-.0128aeqx&<', max_size=8) | st.sampled_from(
    ['hq', '2x2', '0.5', 'nan', 'inf', '-1', '1e9', '']
)


def test_presets_with_ratios():
    assert {name: found[0] for name in PRESETS if (found := preset_ratios(name))} == {
        'hq': Ratios(0.6, 0.8),
        'fast': Ratios(0.9, 0.9),
    }
    with pytest.raises(SegformerPlusPlusError, match="'2x2' takes no ratios"):
        make_strategy('2x2', Ratios(0.1, 0.1))
    with pytest.raises(TokenMergingError, match="'quick' is unknown"):
        make_strategy('quick')


@settings(deadline=None)
@given(st.sampled_from(['hq', 'fast']), st.floats(0, 1), st.floats(0, 1))
def test_the_limits_are_those_of_the_strategy(preset, kv, q):
    _, limits = preset_ratios(preset)
    before = build_token_merging(preset).stages
    if kv <= limits.kv and q <= limits.q:
        changed = make_strategy(preset, Ratios(kv, q)).stages
        assert [s.kv and s.kv.ratio for s in changed] == [kv, kv, None, None]
        assert [s.q and s.q.ratio for s in changed] == [None, None, q, q]
    else:
        with pytest.raises(TokenMergingError, match='cannot be reached, at most'):
            make_strategy(preset, Ratios(kv, q))
    after = build_token_merging(preset).stages
    assert [s.kv and s.kv.ratio for s in after] == [s.kv and s.kv.ratio for s in before]


@pytest.mark.parametrize('ratio', [None, 'much', float('nan'), -0.1, True])
def test_a_ratio_that_is_none(ratio):
    with pytest.raises(TokenMergingError, match=r'is not a number in \[0, 1\]'):
        make_strategy('hq', Ratios(ratio, 0.5))


@pytest.mark.parametrize(
    'query, expected',
    [
        ({}, Settings('hq', None, '', ())),
        (dict(strategy='fast', sample='a'), Settings('fast', None, 'a', ())),
        (dict(strategy='fast', kv='0.25', q='0'), Settings('fast', Ratios(0.25, 0), '', ())),
        (dict(kv='0.25'), Settings('hq', Ratios(0.25, 0.8), '', ())),
        (dict(__theme='dark'), Settings('hq', None, '', ())),
    ],
)
def test_what_an_address_asks_for(query, expected):
    assert read_address(query, PRESETS, ['a']) == expected


@pytest.mark.parametrize(
    'query, said',
    [
        (dict(strategy='quick'), "strategy='quick' is none of none, hq, "),
        (dict(kv='much'), "ratio='much' is not a number"),
        (dict(q='0.99'), 'ratio=0.99 cannot be reached, at most 0.9375'),
        (dict(strategy='2x2', kv='0.5'), "'2x2' takes no ratios"),
        (dict(sample='../b'), "there is no sample '../b'"),
        (dict(speed='9'), "'speed' is none of strategy, kv, q, sample"),
    ],
)
def test_nonsense_is_ignored_and_said(query, said):
    found = read_address(query, PRESETS, ['a'])
    assert found[:3] in (('hq', None, ''), ('2x2', None, ''))
    (sentence,) = found.ignored
    assert said in sentence


@given(st.dictionaries(st.sampled_from(['strategy', 'kv', 'q', 'sample', 'x']), ODD))
def test_whatever_an_address_says_can_be_computed(query):
    found = read_address(query, PRESETS, ['a'])
    make_strategy(found.preset, found.ratios)
    assert found.sample in ('', 'a')
