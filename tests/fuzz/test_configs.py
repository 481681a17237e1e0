"""Configs with mistakes: a model that works, or an error that names the key or its value."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st

pytest.importorskip('mmseg')
pytest.importorskip('mmpose')

from segformer_plusplus import SegformerPlusPlusError

from .cases import cases
from .models import CONFIGS, DELETED, HEADS, KNOWN, MISTAKES, complaint, config, edit, run, values

MORE = ['interpolate_mode', 'act_cfg', 'align_corners', 'no_such_key']
NO_BACKBONES = ['', 'nearest', 'bilinear']
"""The first is mmengine's "Failed to get", the others modules of mmcv with other arguments."""
BACKBONE = [*config('mmseg')['backbone'], 'tome_cfg', 'no_such_key']
KEYS = [('mmseg', 'backbone', key) for key in BACKBONE]
KEYS += [
    (scope, part, key)
    for scope, part in HEADS.items()
    for key in {**config(scope)[part], **dict.fromkeys(MORE)}
]
KEYS += [('mmpose', 'head', key) for key in ('in_index', 'final_layer')]
KEYS += [
    ('mmseg', 'decode_head', k) for k in ('out_channels', 'threshold', 'ignore_index', 'sampler')
]


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def outcome(scope: str, model: dict[str, Any], edits: list[tuple[str, Any]]) -> str | None:
    """None for a model that works or a clear error, else what is wrong."""
    try:
        run(scope, model)
    except (SegformerPlusPlusError, *KNOWN) as error:
        return complaint(error, edits)
    return None


def one_edit(scope: str, part: str, key: str, value: Any) -> None:
    if key == 'type' and value in NO_BACKBONES:
        return
    model = config(scope)
    edit(model, part, key, value)
    assert outcome(scope, model, [(key, value)]) is None


@pytest.mark.parametrize('scope', CONFIGS)
def test_the_model_that_is_edited_works(scope):
    run(scope, config(scope))


@pytest.mark.parametrize('scope, part, key', KEYS, ids=str)
def test_one_mistake(scope, part, key):
    for value in MISTAKES:
        one_edit(scope, part, key, value)


keys = {scope: [(part, key) for s, part, key in KEYS if s == scope] for scope in CONFIGS}
keys['mmpose'] += [each for each in keys['mmseg'] if each[0] == 'backbone']
several = st.sampled_from(sorted(CONFIGS)).flatmap(
    lambda scope: st.tuples(
        st.just(scope),
        st.lists(
            st.tuples(st.sampled_from(keys[scope]), values),
            min_size=2,
            max_size=4,
            unique_by=lambda each: each[0],
        ),
    )
)


@cases(1)
@given(st.sampled_from(sorted(keys)), st.data())
def test_any_value(scope, data):
    part, key = data.draw(st.sampled_from(keys[scope]))
    one_edit(scope, part, key, data.draw(values))


@cases(1)
@given(several)
def test_several_mistakes(drawn):
    scope, edits = drawn
    assume(not any(key == 'type' and value in NO_BACKBONES for (_, key), value in edits))
    model = config(scope)
    for (part, key), value in edits:
        edit(model, part, key, value)
    assert outcome(scope, model, [(key, value) for (_, key), value in edits]) is None


HQ = [
    dict(kv=dict(type='BipartiteSoftMatching2d', ratio=0.6, stride=2)),
    dict(kv=dict(type='BipartiteSoftMatching2d', ratio=0.6, stride=[2, 2])),
    dict(q=dict(type='NeighborMerging2d', stride=4), kv='NeighborMerging1d'),
    dict(q=dict(type='TomesdMatching', ratio=0.5, stride=2, seed=3)),
]
TOME = [
    dict(kv_mode='bsm', kv_r=0.6, kv_sx=2, kv_sy=2),
    dict(q_mode='n1d', q_s=3, kv_mode='n2d', kv_s=2),
    dict(q_mode='bsm', q_r=0.8, q_sx=4, q_sy=4),
    dict(q_mode='n2d', q_s=(2, 2)),
]
WHOLE = dict(
    token_merging=dict(stages=HQ, downsampling=dict(factor=2, mode='bilinear')),
    tome_cfg=TOME,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key and index in a config."""
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, child in inner:
        found.append((*path, key))
        if isinstance(child, dict | list):
            found += places(child, (*path, key))
    return found


@pytest.mark.parametrize('name', WHOLE)
def test_a_mistake_in_merging(name):
    """Any place in it: changed, deleted, or with a strange key beside it."""

    @cases(1.5, shrink=False)
    @given(st.sampled_from(places(WHOLE[name])), values, st.booleans())
    def check(place, value, beside):
        merging = copy.deepcopy(WHOLE[name])
        node = merging
        for step in place[:-1]:
            node = node[step]
        key = place[-1]
        if beside and isinstance(node, dict):
            key = f'{key}s'
        if value == DELETED:
            node.pop(key) if key in (node if isinstance(node, dict) else range(4)) else None
        else:
            node[key] = value
        model = config('mmseg')
        model['backbone'].pop('token_merging')
        model['backbone'][name] = merging
        # the stage, or what is wrong in it
        stages = [f'stage {step + 1}' for step in place if isinstance(step, int)]
        names = [name, *(step for step in place if isinstance(step, str)), str(key), *stages]
        assert outcome('mmseg', model, [(each, value) for each in names]) is None

    check()


def test_tome_cfg_with_too_few_stages_is_named():
    model = config('mmseg')
    model['backbone'].pop('token_merging')
    model['backbone']['tome_cfg'] = TOME[:3]
    assert outcome('mmseg', model, [('tome_cfg', TOME[:3])]) is None
