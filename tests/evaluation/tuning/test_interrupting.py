"""Ctrl-C keeps what there is, and says nothing about the trial that it ends."""

import itertools

import pytest

from evaluation.tuning.fakes import SMALL_SPACE, FakeFidelity
from segformer_plusplus.evaluation.tuning import Budget, Limits, Space, tune_fidelity

SMALL = Space(SMALL_SPACE)


def found(result):
    """What the trials found; how many rounds there were depends on who was a finalist."""
    return [(point.token_merging, point.drop, point.speed_up) for point in result.points]


def test_ctrl_c_keeps_what_there_is(tmp_path):
    calls = itertools.count()

    def interrupt():
        if next(calls) == 8:
            raise KeyboardInterrupt

    limits = Limits(trials=20)
    budget = Budget(max_drop=1.0)
    whole = tune_fidelity(FakeFidelity(), budget, tmp_path / 'whole', limits=limits)
    first = tune_fidelity(FakeFidelity(wait=interrupt), budget, tmp_path / 'cut', limits=limits)
    assert first.interrupted and first.winner is None
    assert found(first) == found(whole)[: len(first.points)]
    second = tune_fidelity(FakeFidelity(), budget, tmp_path / 'cut', limits=limits)
    assert found(second) == found(whole)
    assert not second.interrupted and second.winner.speed_up == whole.winner.speed_up


@pytest.mark.parametrize('after', [3, 16])
def test_ctrl_c_in_the_same_trial_again_and_again(after, tmp_path):
    limits, budget = Limits(trials=20), Budget(max_drop=1.0)
    whole = tune_fidelity(FakeFidelity(), budget, tmp_path / 'whole', space=SMALL, limits=limits)

    def stop():
        raise KeyboardInterrupt

    first = Limits(trials=after)
    tune_fidelity(FakeFidelity(), budget, tmp_path / 'cut', space=SMALL, limits=first)
    for _ in range(3):
        cut = tune_fidelity(
            FakeFidelity(wait=stop), budget, tmp_path / 'cut', space=SMALL, limits=limits
        )
        # what earlier calls have found is there, and what this one has
        assert cut.interrupted and found(cut) == found(whole)[:after]
    last = tune_fidelity(FakeFidelity(), budget, tmp_path / 'cut', space=SMALL, limits=limits)
    assert last.failures == [] and found(last) == found(whole)


def test_a_search_that_is_resumed_and_interrupted_tells_of_both(tmp_path):
    budget = Budget(max_drop=1.0)
    tune_fidelity(FakeFidelity(), budget, tmp_path, limits=Limits(trials=4))
    calls = itertools.count()

    def interrupt():
        if next(calls) == 3:
            raise KeyboardInterrupt

    limits = Limits(trials=20)
    result = tune_fidelity(FakeFidelity(wait=interrupt), budget, tmp_path, limits=limits)
    assert result.interrupted and len(result.points) == 4 + 3
