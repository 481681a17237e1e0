"""The search against brute force: budgets, seeds, failures, repeats, presets."""

import shutil

import pytest

from evaluation.tuning.fakes import (
    SMALL_SPACE,
    FakeFidelity,
    every_setting,
    true_loss,
    true_speed_up,
)
from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.evaluation.tuning import Budget, Limits, Space, tune_fidelity
from segformer_plusplus.evaluation.tuning.study import STUDY
from segformer_plusplus.token_merging import PRESETS

SMALL = Space(SMALL_SPACE)
EVERY = Limits(trials=1000, images=4)


@pytest.fixture(scope='module')
def every_trial(tmp_path_factory):
    """A folder in which the whole small space was measured."""
    folder = tmp_path_factory.mktemp('every')
    tune_fidelity(FakeFidelity(), Budget(max_drop=0.2), folder, space=SMALL, limits=EVERY)
    return folder


@pytest.fixture()
def folder(every_trial, tmp_path):
    """A copy of it: a budget needs no trial of its own."""
    return shutil.copytree(every_trial, tmp_path / 'study')


def tuned(folder, fidelity=None, **budget):
    return tune_fidelity(
        fidelity or FakeFidelity(), Budget(**budget), folder, space=SMALL, limits=EVERY
    )


@pytest.mark.parametrize('most', [0.05, 0.2, 0.5, 2.0, 10.0])
def test_the_fastest_within_a_drop(most, folder):
    result = tuned(folder, max_drop=most)
    best = max(true_speed_up(each) for each in every_setting(SMALL) if true_loss(each) <= most)
    assert result.winner.speed_up == pytest.approx(best)
    assert result.winner.drop <= most
    assert result.check.drop == pytest.approx(result.winner.drop)


@pytest.mark.parametrize('least', [1.05, 1.2, 1.3, 4.0])
def test_the_least_drop_at_a_speed_up(least, folder):
    result = tuned(folder, min_speedup=least)
    best = min(true_loss(each) for each in every_setting(SMALL) if true_speed_up(each) >= least)
    assert result.winner.drop == pytest.approx(best)
    assert result.winner.speed_up >= least


def test_sixty_trials_of_millions_come_near_the_best(tmp_path):
    space, most = Space(), 0.5
    result = tune_fidelity(FakeFidelity(), Budget(max_drop=most), tmp_path, space=space)
    assert space.size > 1e7
    assert len(result.points) == Limits().trials
    presets = [true_speed_up(each) for each in PRESETS if true_loss(each) <= most]
    assert result.winner.speed_up > max(presets)
    assert result.winner.speed_up > 1 + 0.75 * (upper_bound(space, most) - 1)


def upper_bound(space, most):
    """The fastest with a Lagrange multiplier: no setting within the budget is faster."""
    best = float('inf')
    for price in (0.01 * k for k in range(1, 200)):
        time = 1.0 - price * most
        for site, options in space.sites.items():
            rest = dict.fromkeys(space.sites, 0)
            settings = [space.build({**rest, site: index}) for index in range(len(options))]
            time += min(1 / true_speed_up(s) - 1 + price * true_loss(s) for s in settings)
        best = min(best, 1 / time)
    return best


def test_front(folder):
    result = tuned(folder, max_drop=0.2)
    pairs = {(round(true_loss(s), 9), round(true_speed_up(s), 9)) for s in every_setting(SMALL)}
    front = {
        (loss, speed)
        for loss, speed in pairs
        if not any(a <= loss and b >= speed and (a, b) != (loss, speed) for a, b in pairs)
    }
    assert {(round(p.drop, 9), round(p.speed_up, 9)) for p in result.front} == front
    assert [p.speed_up for p in result.front] == sorted(p.speed_up for p in result.front)


def test_nothing_is_measured_twice(folder):
    result = tuned(folder, max_drop=0.2)
    # all settings of the space, and the presets that are not in it
    assert len(result.points) == len({SMALL.identify(each) for each in every_setting(SMALL)})
    names = [SMALL.identify(p.token_merging) for p in result.points]
    assert len(set(names)) == len(names)


def test_presets_come_first_then_every_stage_and_side_alone(tmp_path):
    limits = Limits(trials=len(PRESETS) + 8, images=4)
    result = tune_fidelity(FakeFidelity(), Budget(max_drop=0.2), tmp_path, limits=limits)
    assert [p.preset for p in result.points] == [*PRESETS, *[None] * 8]
    alone = [
        [
            (number, side)
            for number, stage in enumerate(point.token_merging, 1)
            for side in ('q', 'kv')
            if side in stage
        ]
        for point in result.points[len(PRESETS) :]
    ]
    assert alone == [[(number, side)] for number in (1, 2, 3, 4) for side in ('q', 'kv')]


@pytest.mark.parametrize('seed', [0, 7])
def test_equal_seeds_give_equal_results(seed, tmp_path):
    limits = Limits(trials=30, seed=seed)
    runs = [
        tune_fidelity(FakeFidelity(), Budget(max_drop=0.3), tmp_path / name, limits=limits)
        for name in 'ab'
    ]
    assert runs[0].points == runs[1].points
    other = tune_fidelity(
        FakeFidelity(),
        Budget(max_drop=0.3),
        tmp_path / 'c',
        limits=Limits(trials=30, seed=seed + 1),
    )
    assert other.points != runs[0].points


def test_without_ground_truth(tmp_path):
    limits = Limits(trials=12)
    fidelity = FakeFidelity(has_truth=False)
    result = tune_fidelity(fidelity, Budget(max_drop=0.4), tmp_path, space=SMALL, limits=limits)
    assert result.by == 'changed'
    best = max(p.speed_up for p in result.points if 2 * true_loss(p.token_merging) <= 0.4)
    assert result.winner.speed_up == best > 1


def test_by_another_measure(tmp_path):
    budget = Budget(max_drop=0.4)
    result = tune_fidelity(
        FakeFidelity(), budget, tmp_path, space=SMALL, limits=Limits(trials=9), by='changed'
    )
    for point in result.points:
        assert point.drop == pytest.approx(2 * true_loss(point.token_merging))
    with pytest.raises(SegformerPlusPlusError, match=r'--by PCK@0.1: .* mIoU, changed'):
        tune_fidelity(FakeFidelity(), budget, tmp_path / 'x', space=SMALL, by='PCK@0.1')


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
    result = tuned(folder, **budget)
    assert result.winner is None
    assert SMALL.identify(result.nearest.token_merging) == SMALL.identify(nearest())
    assert result.front


def test_another_budget_uses_the_same_trials(folder):
    fidelity = FakeFidelity()
    result = tuned(folder, fidelity, min_speedup=1.2)
    # no more than the check and its parts
    assert {str(each) for each in fidelity.measured()} == {str(result.winner.token_merging)}


def test_the_timeout_ends_the_search(tmp_path):
    limits = Limits(trials=10**6, timeout=1e-9)
    result = tune_fidelity(FakeFidelity(), Budget(max_drop=0.2), tmp_path, limits=limits)
    assert result.points == [] and result.winner is None


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (dict(identity={'checkpoint': 'b'}), 'checkpoint'),
        (dict(space=Space(SMALL_SPACE[:1])), 'space'),
        (dict(by='changed'), r'measure \(mIoU, not changed\)'),
        (dict(limits=Limits(trials=8, images=3)), 'choice of images'),
    ],
)
def test_the_study_of_something_else_is_refused(change, named, tmp_path):
    same = dict(identity={'checkpoint': 'a'}, space=SMALL, limits=Limits(trials=8, images=4))
    budget = Budget(max_drop=0.2)
    tune_fidelity(FakeFidelity(), budget, tmp_path, **same)
    before = (tmp_path / STUDY).read_bytes()
    with pytest.raises(
        SegformerPlusPlusError, match=f'another {named}.*; name another folder.*--fresh'
    ):
        tune_fidelity(FakeFidelity(), budget, tmp_path, **{**same, **change})
    assert (tmp_path / STUDY).read_bytes() == before
    fresh = tune_fidelity(FakeFidelity(), budget, tmp_path, **{**same, **change}, fresh=True)
    assert len(fresh.points) == 8
