"""The search against brute force: budgets, seeds, repeats, presets."""

import shutil

import pytest

from evaluation.tuning.fakes import (
    EVERY,
    SMALL,
    SMALL_SPACE,
    FakeFidelity,
    every_setting,
    search,
    true_loss,
    true_speed_up,
)
from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.evaluation.tuning import Limits, Space
from segformer_plusplus.evaluation.tuning.study import STUDY
from segformer_plusplus.token_merging import PRESETS


@pytest.fixture(scope='module')
def every_trial(tmp_path_factory):
    """A folder in which the whole small space was measured."""
    folder = tmp_path_factory.mktemp('every')
    search(folder, max_drop=0.2, trials=EVERY)
    return folder


@pytest.fixture
def folder(every_trial, tmp_path):
    """A copy of it: a budget needs no trial of its own."""
    return shutil.copytree(every_trial, tmp_path / 'study')


@pytest.mark.parametrize('most', [0.05, 0.2, 0.5, 2.0, 10.0])
def test_the_fastest_within_a_drop(most, folder):
    result = search(folder, max_drop=most, trials=EVERY)
    best = max(true_speed_up(each) for each in every_setting(SMALL) if true_loss(each) <= most)
    assert result.winner.speed_up == pytest.approx(best)
    assert result.winner.drop <= most
    assert result.check.drop == pytest.approx(result.winner.drop)


@pytest.mark.parametrize('least', [1.05, 1.2, 1.3, 4.0])
def test_the_least_drop_at_a_speed_up(least, folder):
    fidelity = FakeFidelity()
    result = search(folder, fidelity, min_speedup=least, trials=EVERY)
    best = min(true_loss(each) for each in every_setting(SMALL) if true_speed_up(each) >= least)
    assert result.winner.drop == pytest.approx(best)
    assert result.winner.speed_up >= least
    # another budget uses the same trials: no more than the check and its parts
    assert {str(each) for each in fidelity.measured()} == {str(result.winner.token_merging)}


def test_sixty_trials_of_millions_come_near_the_best(tmp_path):
    space, most = Space(), 0.5
    result = search(tmp_path, max_drop=most, trials=Limits().trials, space=space)
    assert space.size > 1e7
    assert len(result.points) == 60
    presets = [true_speed_up(each) for each in PRESETS if true_loss(each) <= most]
    assert result.winner.speed_up > max(presets)
    assert result.winner.speed_up > 1 + 0.75 * (upper_bound(space, most) - 1)


def upper_bound(space, most):
    """The fastest with a Lagrange multiplier: no setting within the budget is faster."""
    nothing = dict.fromkeys(space.sites, 0)
    pairs = [
        [
            (1 / true_speed_up(setting) - 1, true_loss(setting))
            for index in range(len(options))
            for setting in [space.build({**nothing, site: index})]
        ]
        for site, options in space.sites.items()
    ]
    return min(
        1 / (1 - price * most + sum(min(t + price * loss for t, loss in site) for site in pairs))
        for price in (0.01 * k for k in range(1, 200))
    )


def test_nothing_is_measured_twice_and_the_front_is_that_of_all(folder):
    result = search(folder, max_drop=0.2, trials=EVERY)
    # all settings of the space, and the presets that are not in it
    names = [SMALL.identify(p.token_merging) for p in result.points]
    assert sorted(names) == sorted({SMALL.identify(each) for each in every_setting(SMALL)})
    pairs = {(round(true_loss(s), 9), round(true_speed_up(s), 9)) for s in every_setting(SMALL)}
    front = {
        (loss, speed)
        for loss, speed in pairs
        if not any(a <= loss and b >= speed and (a, b) != (loss, speed) for a, b in pairs)
    }
    assert {(round(p.drop, 9), round(p.speed_up, 9)) for p in result.front} == front
    assert [p.speed_up for p in result.front] == sorted(p.speed_up for p in result.front)


def test_presets_come_first_then_every_stage_and_side_alone(tmp_path):
    result = search(tmp_path, trials=len(PRESETS) + 8, space=Space())
    assert [p.preset for p in result.points] == [*PRESETS, *[None] * 8]
    alone = [
        [(number, side) for number, stage in enumerate(point.token_merging, 1) for side in stage
         if side in ('q', 'kv')]
        for point in result.points[len(PRESETS) :]
    ]  # fmt: skip
    assert alone == [[(number, side)] for number in (1, 2, 3, 4) for side in ('q', 'kv')]


def test_equal_seeds_give_equal_results(tmp_path):
    runs = [
        search(tmp_path / name, max_drop=0.3, trials=30, seed=seed, images=None, space=Space())
        for name, seed in (('a', 7), ('b', 7), ('c', 8))
    ]
    assert runs[0].points == runs[1].points != runs[2].points


@pytest.mark.parametrize(('has_truth', 'by'), [(False, None), (True, 'changed')])
def test_what_changes_is_the_measure(has_truth, by, tmp_path):
    result = search(tmp_path, FakeFidelity(has_truth=has_truth), max_drop=0.4, trials=12, by=by)
    assert result.by == 'changed'
    for point in result.points:
        assert point.drop == pytest.approx(2 * true_loss(point.token_merging))
    best = max(p.speed_up for p in result.points if 2 * true_loss(p.token_merging) <= 0.4)
    assert result.winner.speed_up == best > 1


def test_a_measure_that_these_images_do_not_have(tmp_path):
    with pytest.raises(SegformerPlusPlusError, match=r'--by PCK@0.1: .* mIoU, changed'):
        search(tmp_path, by='PCK@0.1')


@pytest.mark.parametrize(
    ('budget', 'nearest'),
    [
        (dict(min_speedup=50.0), lambda: max(every_setting(SMALL), key=true_speed_up)),
        (
            dict(max_drop=0.0001),
            lambda: min((s for s in every_setting(SMALL) if true_loss(s)), key=true_loss),
        ),
    ],
)
def test_a_budget_that_nothing_meets(budget, nearest, folder):
    result = search(folder, **budget, trials=EVERY)
    assert result.winner is None
    assert SMALL.identify(result.nearest.token_merging) == SMALL.identify(nearest())
    assert result.front


def test_the_timeout_ends_the_search(tmp_path):
    result = search(tmp_path, trials=10**6, timeout=1e-9)
    assert result.points == [] and result.winner is None


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (dict(identity={'checkpoint': 'b'}), 'checkpoint'),
        (dict(space=Space(SMALL_SPACE[:1])), 'space'),
        (dict(by='changed'), r'measure \(mIoU, not changed\)'),
        (dict(images=3), 'choice of images'),
    ],
)
def test_the_study_of_something_else_is_refused(change, named, tmp_path):
    same = dict(identity={'checkpoint': 'a'}, trials=8)
    search(tmp_path, **same)
    before = (tmp_path / STUDY).read_bytes()
    with pytest.raises(
        SegformerPlusPlusError, match=f'another {named}.*; name another folder.*--fresh'
    ):
        search(tmp_path, **{**same, **change})
    assert (tmp_path / STUDY).read_bytes() == before
    fresh = search(tmp_path, **{**same, **change}, fresh=True)
    assert len(fresh.points) == 8
