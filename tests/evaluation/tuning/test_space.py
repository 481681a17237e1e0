"""The search space: what it holds, one's own, mistakes in it."""

import itertools

import pytest

from evaluation.tuning.fakes import search
from segformer_plusplus import TOKEN_MERGERS, SegformerPlusPlusError, TokenMerger
from segformer_plusplus.evaluation.tuning import Space, default_space, read_space
from segformer_plusplus.token_merging import PRESETS, build_token_merging
from segformer_plusplus.token_merging.plans import CellPlan


@pytest.fixture
def own_pairs():
    """A strategy whose setting is a pair, as long as a test runs."""

    class OwnPairs(TokenMerger):
        def __init__(self, size):
            self.size = size

        def plan(self, tokens, grid):
            return CellPlan(grid, tuple(self.size), tokens.device)

    TOKEN_MERGERS.register_module(module=OwnPairs)
    yield
    del TOKEN_MERGERS.module_dict['OwnPairs']


def test_the_default_builds_and_holds_the_presets():
    space = Space()
    for site, options in space.sites.items():
        for index in range(len(options)):
            build_token_merging(space.build({**dict.fromkeys(space.sites, 0), site: index}))
    for name, preset in PRESETS.items():
        found = space.find(name)
        # merged keys without proportional attention are measured as presets alone
        plain = any('kv' in s and 'proportional_attention' not in s for s in preset['stages'])
        assert (found is None) == ('downsampling' in preset or plain)
        if found is not None:
            assert space.identify(space.build(found)) == space.identify(name)


@pytest.mark.parametrize('stages', [1, 2, 3, 5])
def test_the_default_fits_other_backbones(stages):
    space = Space(num_stages=stages)
    assert len(space.sites) == 2 * stages
    assert set(space.presets()) >= {'none', 'downsampling'}
    assert 'hq' not in space.presets()


def test_proportional_attention_is_another_choice():
    kv = dict(type='BipartiteSoftMatching2d', stride=2, ratio=0.5, sides=['kv'])
    proportional = dict(kv, proportional_attention=True)
    sampled = dict(kv, proportional_attention='sampled')
    space = Space([proportional, kv, sampled, dict(type='NeighborMerging2d', sides=['q'])])
    plain = dict(kv=dict(type='BipartiteSoftMatching2d', ratio=0.5))
    for how in (False, True, 'sampled'):
        stage = dict(plain, proportional_attention=how)
        wanted = [dict(stage, q='NeighborMerging2d'), {}, stage, {}]
        found = space.find(wanted)
        assert found is not None
        assert space.identify(space.build(found)) == space.identify(wanted)
    assert space.find([dict(plain, share=2), {}, {}, {}]) is None


def test_the_old_name_of_proportional_attention_works():
    entry = dict(type='NeighborMerging2d', sides=['kv'])
    with pytest.warns(FutureWarning, match='entry 1: weigh_keys is proportional_attention now'):
        old = Space([dict(entry, weigh_keys=True)])
    assert old.sites == Space([dict(entry, proportional_attention=True)]).sites


def test_no_early_queries_are_matched():
    """131072 queries of a 1024x2048 image: their similarities alone would be 13 GB."""
    for site, options in Space().sites.items():
        kinds = {each['type'] for each in options if each is not None}
        assert ('BipartiteSoftMatching2d' in kinds) == (site not in ('stage 1 q', 'stage 2 q'))


def test_a_list_holds_choices_of_which_impossible_ones_are_left_out():
    entry = dict(type='BipartiteSoftMatching2d', stride=[2, 4], ratio=[0.7, 0.9])
    options = Space([entry]).sites['stage 1 q']
    found = {(each['stride'], each['ratio']) for each in options if each is not None}
    assert found == {(2, 0.7), (4, 0.7), (4, 0.9)}
    assert options[0] is None


def test_choices_are_ordered_by_how_much_they_merge():
    options = Space(default_space()[::-1]).sites['stage 3 kv']
    share = {'BipartiteSoftMatching2d': lambda s: s['ratio'],
             'NeighborMerging2d': lambda s: 1 - 1 / s['stride'] ** 2}  # fmt: skip
    shares = [0.0 if each is None else share[each['type']](each) for each in options]
    assert shares == sorted(shares)


def test_where_an_entry_may_act():
    space = Space([dict(type='NeighborMerging2d', stride=2, sides=['q'], stages=[2, 3])], 3)
    assert list(space.sites) == ['stage 2 q', 'stage 3 q']
    assert space.size == 4
    built = [space.build(dict(zip(space.sites, pair, strict=True)))
             for pair in itertools.product((0, 1), repeat=2)]  # fmt: skip
    merging = dict(q=dict(type='NeighborMerging2d', stride=2))
    assert built == [[{}, {}, {}], [{}, {}, merging], [{}, merging, {}], [{}, merging, merging]]


def test_a_pair_is_one_value():
    options = Space([dict(type='NeighborMerging2d', stride=(2, 4))]).sites['stage 1 q']
    # as the study gives it back
    assert options[1:] == (dict(type='NeighborMerging2d', stride=[2, 4]),)


@pytest.mark.parametrize(
    'value', [{1: 2}, float('nan'), 1 + 2j, {2, 4}, dict(size=range(3))], ids=repr
)
def test_what_json_cannot_hold_is_refused(value, own_pairs):
    with pytest.raises(SegformerPlusPlusError, match='entry 1: size=.* cannot be kept as JSON'):
        Space([dict(type='OwnPairs', size=value)])


def test_a_strategy_with_a_pair_is_measured_once(own_pairs, tmp_path):
    """Read from the study again, it is the same setting."""
    space = Space([dict(type='OwnPairs', size=[(1, 2), (2, 2)], sides=['kv'], stages=[1])])
    first = search(tmp_path, space=space, trials=50)
    own = [p.token_merging for p in first.points if p.preset is None]
    assert sorted(each[0]['kv']['size'] for each in own) == [[1, 2], [2, 2]]
    second = search(tmp_path, space=space, trials=50)
    assert len(second.points) == len(first.points) == len(PRESETS) + 2


@pytest.mark.parametrize(
    ('entries', 'named'),
    [
        ([], 'empty'),
        (['none'], 'entry 1: .*no dict'),
        (
            [dict(type='NeighborMerging2d', proportional_attention=True)],
            "proportional_attention=True .*sides=.'kv'.",
        ),
        (
            [dict(type='NeighborMerging2d', proportional_attention=2, sides=['kv'])],
            'proportional_attention=2 is not True, False or',
        ),
        ([dict(type='NeighborMerging2d', stride=2), dict(type='Nothing')], "entry 2: .*'Nothing'"),
        ([dict(type='NeighborMerging2d', strid=2)], "unexpected keyword argument 'strid'"),
        ([dict(type='NeighborMerging2d', stride=[])], 'a list of choices is empty'),
        ([dict(type='NeighborMerging2d', stride=2, sides=['k'])], r"sides=\['k'\] is no list"),
        ([dict(type='NeighborMerging2d', stride=2, stages=[0])], r'stages=\[0\] is no list'),
        ([dict(type='BipartiteSoftMatching2d', stride=2, ratio=0.9)], 'cannot be reached'),
    ],
)
def test_mistakes(entries, named):
    with pytest.raises(SegformerPlusPlusError, match=named):
        Space(entries)


@pytest.mark.parametrize('text', ['spaces = []', 'space = []', 'space = 3'])
def test_a_file_without_a_space(text, tmp_path):
    (tmp_path / 'space.py').write_text(text)
    with pytest.raises(SegformerPlusPlusError, match='has no space: write space ='):
        read_space(tmp_path / 'space.py')
