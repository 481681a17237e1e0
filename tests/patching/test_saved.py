"""A model of Transformers is saved with its strategy, and merges the same after it was loaded."""

import copy
import json
import random
import sys
from unittest.mock import patch

import pytest
import torch
from checkpoints.models import difference
from hub import TOKEN
from torch import nn

from segformer_plusplus import SegformerPlusPlusError, apply_token_merging, remove_token_merging
from segformer_plusplus.errors import TokenMergingError
from segformer_plusplus.patching import find_backbones
from segformer_plusplus.token_merging import (
    PRESETS,
    NeighborMerging1d,
    NeighborMerging2d,
    TokenMerging,
    build_token_merging,
)

from .models import BOTH, CASES, EveryThirdRow
from .test_reversible import run, traces

KINDS = [name for name in CASES if name.startswith('Segformer')]
SEGMENTOR_NAME = 'SegformerForSemanticSegmentation'
SEGMENTOR = CASES[SEGMENTOR_NAME]
OPTIONS = [
    dict(kv=dict(type='NeighborMerging2d', stride=(2, 3)), proportional_attention=True),
    dict(kv=dict(type=NeighborMerging1d, stride=3), proportional_attention='sampled'),
    dict(q=NeighborMerging2d, kv=dict(type='segformer_plusplus.EveryThirdRow', height=2)),
    None,
]
"""Classes, tuples, a name with its scope, nothing."""
SHRUNK = dict(stages=OPTIONS, downsampling=dict(factor=2, mode='bilinear'))


class Unknown(NeighborMerging2d):
    """A strategy that is in no registry."""


def loaded(model, folder):
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval()


def merging(model):
    return [repr(backbone.merging()) for backbone in find_backbones(model)]


STRATEGIES = {
    **{name: name for name in PRESETS},
    'None': None,
    'a': BOTH,
    'b': OPTIONS,
    'c': SHRUNK,
}


@pytest.mark.parametrize(
    'kind, name',
    [(SEGMENTOR_NAME, name) for name in STRATEGIES]
    + [(kind, 'weighted') for kind in KINDS if kind != SEGMENTOR_NAME],
)
def test_a_strategy_is_saved_and_read_again(kind, name, tmp_path):
    case, strategy = CASES[kind], STRATEGIES[name]
    model = case.build(random.randrange(1000))
    untouched = run(case, copy.deepcopy(model))
    apply_token_merging(model, strategy)
    again = loaded(model, tmp_path)
    assert difference(run(case, again), untouched) < 1e-5  # it merges nothing yet
    apply_token_merging(again)
    assert merging(again) == merging(model) == [repr(build_token_merging(strategy))]
    assert difference(run(case, again), run(case, model)) < 1e-5
    record = json.loads((tmp_path / 'config.json').read_text())['token_merging']
    assert record == again.config.token_merging == model.config.token_merging
    expected = name if name in PRESETS else 'none' if strategy is None else None
    assert record.get('preset') == expected


def test_removed_it_is_saved_without(tmp_path):
    model = SEGMENTOR.build()
    before = model.config.to_dict()
    apply_token_merging(model, 'hq')
    remove_token_merging(model)
    assert model.config.to_dict() == before
    again = loaded(model, tmp_path)
    with pytest.raises(TokenMergingError, match=r'has no token_merging; give one, such as'):
        apply_token_merging(again)


def test_the_last_strategy_is_saved():
    model = SEGMENTOR.build()
    apply_token_merging(model, 'downsampling')
    apply_token_merging(model, BOTH)
    assert {*model.config.token_merging} == {'stages'}
    apply_token_merging(model)
    assert merging(model) == [repr(build_token_merging(BOTH))]


@pytest.mark.parametrize('change', ['other numbers', 'gone'])
def test_the_numbers_of_a_preset_are_those_that_it_was_saved_with(change, tmp_path):
    model = SEGMENTOR.build()
    apply_token_merging(model, 'hq')
    again = loaded(model, tmp_path)
    with patch.dict(PRESETS, hq=PRESETS['fast']):  # which puts the order back as well
        if change == 'gone':
            del PRESETS['hq']
        message = r"^token_merging: preset 'hq' is not what it was"
        with pytest.warns(UserWarning, match=message) as seen:
            apply_token_merging(again)
    assert len(seen) == 1 and seen[0].filename == __file__
    assert merging(again) == merging(model)
    assert difference(run(SEGMENTOR, again), run(SEGMENTOR, model)) < 1e-5


@pytest.mark.parametrize(
    'strategy, reason',
    [
        ([dict(q=Unknown)] + [{}] * 3, 'Unknown is not registered'),
        ([dict(q=NeighborMerging2d(3))] + [{}] * 3, r'NeighborMerging2d\(stride=\(3, 3\)\)'),
        ([dict(kv=dict(type=EveryThirdRow, height=torch.tensor(2)))] + [{}] * 3, 'not JSON'),
        (build_token_merging('hq'), 'what it was built of'),
    ],
)
def test_what_json_cannot_hold_is_said(strategy, reason, tmp_path):
    model = SEGMENTOR.build()
    apply_token_merging(model, 'fast')
    with pytest.warns(UserWarning, match=f'save_pretrained will not keep .*{reason}') as seen:
        apply_token_merging(model, strategy)
    assert len(seen) == 1 and seen[0].filename == __file__
    assert '\n' not in str(seen[0].message)
    expected = strategy if isinstance(strategy, TokenMerging) else build_token_merging(strategy)
    assert merging(model) == [repr(expected)]
    assert not hasattr(loaded(model, tmp_path).config, 'token_merging')


NONSENSE = [
    5,
    True,
    'hg',
    [],
    [{}] * 3,
    [1, 2, 3, 4],
    {},
    {'preset': ['hq']},
    {'preset': 'hg'},
    {'stages': 'hq'},
    {'stages': [{}] * 4, 'more': 1},
    {'stages': [{}] * 4, 'downsampling': 2},
    [dict(q='os.path')] + [{}] * 3,
    [dict(kv=dict(type='hq'))] + [{}] * 3,
    [dict(kv=dict(type=['NeighborMerging2d']))] + [{}] * 3,
    [dict(kv=dict(type='BipartiteSoftMatching2d', ratio=9))] + [{}] * 3,
    [dict(kv=dict(type='BipartiteSoftMatching2d', ration=0.1))] + [{}] * 3,
    [dict(kv='NeighborMerging2d', share='two')] + [{}] * 3,
]


@pytest.mark.parametrize('nonsense', NONSENSE, ids=repr)
def test_nonsense_in_the_config_is_named(nonsense, tmp_path):
    model = SEGMENTOR.build()
    model.save_pretrained(tmp_path)
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'token_merging': nonsense}))
    model = type(model).from_pretrained(tmp_path).eval()
    before = traces(model)
    with pytest.raises(TokenMergingError, match=r'^the config of segformer: \S') as caught:
        apply_token_merging(model)
    assert '\n' not in str(caught.value)
    assert traces(model) == before
    assert model.config.token_merging == nonsense


@pytest.mark.parametrize('written', ['hq', {'preset': 'hq'}, PRESETS['hq']['stages']])
def test_what_somebody_wrote_by_hand_is_taken(written):
    model = SEGMENTOR.build()
    model.config.token_merging = written
    apply_token_merging(model)
    assert merging(model) == [repr(build_token_merging('hq'))]


def test_a_name_in_a_config_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / 'brought_along.py').write_text('class Mine: pass')
    monkeypatch.syspath_prepend(tmp_path)
    model = SEGMENTOR.build()
    for given in ('brought_along.Mine', dict(type='brought_along.Mine')):
        model.config.token_merging = {'stages': [dict(q=given)] + [{}] * 3}
        with pytest.raises(TokenMergingError, match='is not registered, known are'):
            apply_token_merging(model)
    assert 'brought_along' not in sys.modules


def test_on_failure_the_config_is_as_before():
    model = SEGMENTOR.build()
    apply_token_merging(model, 'hq')
    kept = copy.deepcopy(model.config.token_merging)
    broken = nn.ModuleList([model, CASES['SegformerModel'].build()])
    del broken[1].stages[3].blocks[0].mlp.fc2
    for target, strategy in ((model, 'hg'), (broken, 'fast')):
        with pytest.raises(SegformerPlusPlusError):
            apply_token_merging(target, strategy)
        assert model.config.token_merging == kept
    assert not hasattr(broken[1].config, 'token_merging')


@pytest.mark.parametrize('name', ['own', 'mmseg', 'smp.Unet'])
def test_other_libraries_keep_no_strategy(name):
    model = CASES[name].build()
    before = traces(model)
    with pytest.raises(
        TokenMergingError, match=r"give one, such as apply_token_merging\(model, 'h"
    ):
        apply_token_merging(model)
    assert traces(model) == before


def test_two_backbones_keep_their_own():
    pair = nn.ModuleList([CASES[kind].build() for kind in KINDS[:2]])
    apply_token_merging(pair[0], 'hq')
    with pytest.raises(TokenMergingError, match=r'the config of 1\.segformer has no'):
        apply_token_merging(pair)
    apply_token_merging(pair[1], BOTH)
    remove_token_merging(twin := copy.deepcopy(pair))
    expected = merging(pair)
    apply_token_merging(pair)
    assert merging(pair) == expected and len(set(expected)) == 2
    assert not any(hasattr(each.config, 'token_merging') for each in twin)


def test_a_part_is_saved_with_the_whole(tmp_path):
    model = SEGMENTOR.build()
    apply_token_merging(model.segformer, 'fast')
    again = loaded(model, tmp_path)
    apply_token_merging(again)
    assert merging(again) == merging(model)


def test_models_of_one_config_share_what_it_keeps():
    """As they share all else that Transformers keeps there; each merges as it was told."""
    config = SEGMENTOR.build().config
    one, other = (type(SEGMENTOR.build())(config) for _ in range(2))
    apply_token_merging(one, 'hq')
    apply_token_merging(other, 'fast')
    assert one.config.token_merging['preset'] == 'fast'
    assert merging(one) != merging(other)


def test_push_to_hub_of_transformers_keeps_it(hub):
    model = SEGMENTOR.build(random.randrange(1000))
    apply_token_merging(model, BOTH)
    model.push_to_hub('someone/tiny', token=TOKEN)
    again = type(model).from_pretrained('someone/tiny').eval()
    apply_token_merging(again)
    assert difference(run(SEGMENTOR, again), run(SEGMENTOR, model)) < 1e-5
