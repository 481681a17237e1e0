"""What is said of a strategy names all that it was given."""

import random

import pytest

from segformer_plusplus.token_merging import PRESETS, NeighborMerging2d, build_token_merging
from segformer_plusplus.token_merging.config import PURPOSES
from segformer_plusplus.token_merging.words import in_words

NOTHING = 'nothing is merged'


def of_kv(*given, **options):
    """Returns the words of a third stage that merges keys and values alone."""
    stages = [{}, {}, dict(kv=given[0] if given else None, **options), {}]
    before, also, line, after = in_words(build_token_merging(stages))
    assert {before, also, after} == {NOTHING}
    return line


@pytest.mark.parametrize(
    'preset, lines',
    {
        'none': [NOTHING] * 4,
        'hq': ['keys and values: matching, 60 % merged, 2x2 cells'] * 2
        + ['queries: matching, 80 % merged, 4x4 cells'] * 2,
        '2x2': ['queries: mean of 2x2 cells'] * 4,
        'downsampling': [f'the image is made 2 times smaller (nearest); {NOTHING}'] + [NOTHING] * 3,
    }.items(),
)
def test_presets_in_words(preset, lines):
    assert in_words(build_token_merging(preset)) == lines


def test_every_setting_is_said():
    rows, columns = random.sample(range(2, 7), 2)
    percent = random.randrange(1, 50)
    cells = dict(ratio=percent / 100, stride=(rows, columns))
    said = f'{percent} % merged'
    for kind, line in {
        'BipartiteSoftMatching2d': f'matching, {said}, {rows}x{columns} cells',
        'TomesdMatching': f'matching by tomesd, {said}, {rows}x{columns} cells',
    }.items():
        assert of_kv(dict(type=kind, **cells)) == f'keys and values: {line}'
    other = dict(type='BipartiteSoftMatching1d', ratio=percent / 100)
    assert said in of_kv(other)
    assert f'mean of {rows} in a row' in of_kv(dict(type='NeighborMerging1d', stride=rows))
    assert 'proportional' in of_kv(other, proportional_attention=True)
    assert 'weighed by attention' in of_kv(other, proportional_attention='sampled')
    assert of_kv(other, share=rows).endswith(f'; one plan for {rows} blocks')


def test_a_strategy_of_ones_own_is_shown_as_it_is():
    class Odd(NeighborMerging2d):
        def __init__(self):
            self.height = random.random()

        def plan(self, tokens, grid):
            raise NotImplementedError

    odd = Odd()
    assert of_kv(odd) == f'keys and values: Odd(height={odd.height})'
    both = build_token_merging([dict(q='NeighborMerging2d', kv=odd)], 1)
    assert in_words(both) == [f'queries: mean of 2x2 cells; keys and values: {odd!r}']


def test_no_two_presets_sound_alike():
    said = {name: tuple(in_words(build_token_merging(name))) for name in PRESETS}
    assert len(set(said.values())) == len(said)


def test_every_preset_has_a_purpose_of_its_own():
    assert list(PURPOSES) == list(PRESETS)
    assert len(set(PURPOSES.values())) == len(PRESETS)
