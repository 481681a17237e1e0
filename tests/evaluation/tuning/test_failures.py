"""What fails is marked or rejected with its reason, and the rest goes on."""

import json

import pytest

from evaluation.tuning.fakes import (
    SMALL_SPACE,
    FakeFidelity,
    every_setting,
    merged_shares,
    true_loss,
    true_speed_up,
)
from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.evaluation.tuning import Budget, Limits, Space, tune_fidelity
from segformer_plusplus.evaluation.tuning.run import split_images
from segformer_plusplus.evaluation.tuning.selection import FINAL_ROUNDS
from segformer_plusplus.evaluation.tuning.writing import describe_winner

SMALL = Space(SMALL_SPACE)
LIMITS = Limits(trials=20, images=4)
EVERY = Limits(trials=1000, images=4)


def test_out_of_memory_is_marked_and_the_search_goes_on(tmp_path):
    fidelity = FakeFidelity(refuse=0.5)
    result = tune_fidelity(fidelity, Budget(max_drop=5.0), tmp_path, space=SMALL, limits=EVERY)
    assert {failure.reason for failure in result.failures} == {'candidate: out of memory'}
    fitting = [
        s for s in every_setting(SMALL) if dict(merged_shares(s)[0]).get('stage 1 kv', 0) < 0.5
    ]
    assert len(result.points) == len({SMALL.identify(s) for s in fitting})
    best = max(true_speed_up(s) for s in fitting if true_loss(s) <= 5.0)
    assert result.winner.speed_up == pytest.approx(best)
    again = FakeFidelity(refuse=0.5)
    second = tune_fidelity(again, Budget(max_drop=5.0), tmp_path, space=SMALL, limits=EVERY)
    assert len(again.measured()) < 5
    # another process may hold less memory: they were tried once more, with the same end
    assert settings_of(second.failures) == settings_of(result.failures)
    third = tune_fidelity(FakeFidelity(), Budget(max_drop=5.0), tmp_path, space=SMALL, limits=EVERY)
    assert third.failures == []
    assert settings_of(third.points) == settings_of([*result.points, *result.failures])


def settings_of(found):
    return sorted(json.dumps(each.token_merging) for each in found)


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('CUBLAS_STATUS_ALLOC_FAILED\nwhen calling'),
        MemoryError('no memory'),
        IndexError('of a strategy'),
    ],
)
def test_any_failure_of_a_trial_is_marked(error, tmp_path):
    class Broken(FakeFidelity):
        def time(self, variants, rounds=10, warmup=2, taken=None):
            if variants.get('candidate') == 'hq':
                raise error
            return super().time(variants, rounds, warmup)

    limits = Limits(trials=8)
    result = tune_fidelity(Broken(), Budget(max_drop=5.0), tmp_path, space=SMALL, limits=limits)
    (failure,) = result.failures
    assert failure.token_merging == 'hq' and len(result.points) == 7
    assert failure.reason == ' '.join(f'{type(error).__name__}: {error}'.split())


def failing(count=8, **methods):
    """A fidelity of which a method raises where a predicate says so."""

    class Failing(FakeFidelity):
        def time(self, variants, rounds=10, warmup=2, taken=None):
            if methods.get('time', lambda *_: False)(variants, rounds):
                raise SegformerPlusPlusError('candidate: out of memory')
            return super().time(variants, rounds, warmup)

        def predict(self, token_merging):
            if methods.get('predict', lambda *_: False)(self.indices, token_merging):
                raise SegformerPlusPlusError('strategy: out of memory')
            return super().predict(token_merging)

    return Failing(count)


def test_a_finalist_that_cannot_be_timed_anew_is_rejected(tmp_path):
    budget = Budget(max_drop=2.0)
    fair = tune_fidelity(FakeFidelity(), budget, tmp_path / 'a', space=SMALL, limits=LIMITS)
    best = fair.winner.token_merging
    rounds = FINAL_ROUNDS * LIMITS.rounds
    fidelity = failing(time=lambda variants, n: n == rounds and best in variants.values())
    result = tune_fidelity(fidelity, budget, tmp_path / 'b', space=SMALL, limits=LIMITS)
    (rejected,) = result.rejected
    assert rejected.point.token_merging == best and rejected.check is None
    assert rejected.reason == 'it could not be timed anew: candidate: out of memory'
    others = [p for p in fair.points if p.token_merging != best and p.drop <= 2.0]
    assert result.winner.speed_up == pytest.approx(max(p.speed_up for p in others))


def test_a_check_that_fails_is_a_rejection(tmp_path):
    budget = Budget(max_drop=2.0)
    fair = tune_fidelity(FakeFidelity(), budget, tmp_path / 'a', space=SMALL, limits=LIMITS)
    best = fair.winner.token_merging
    _, others = split_images(range(8), 4, 0)
    fidelity = failing(predict=lambda images, each: images == others and each == best)
    result = tune_fidelity(fidelity, budget, tmp_path / 'b', space=SMALL, limits=LIMITS)
    (rejected,) = result.rejected
    assert rejected.point.token_merging == best and rejected.check is None
    assert rejected.reason == 'it could not be checked: strategy: out of memory'
    assert result.winner is not None and result.check is not None


def test_a_check_set_that_cannot_be_measured_leaves_the_winner_unchecked(tmp_path):
    _, others = split_images(range(8), 4, 0)
    fidelity = failing(predict=lambda images, each: images == others)
    budget = Budget(max_drop=2.0)
    result = tune_fidelity(fidelity, budget, tmp_path, space=SMALL, limits=LIMITS)
    assert result.winner is not None and result.check is None
    assert result.unchecked == 'strategy: out of memory'
    assert 'Not checked: strategy: out of memory.' in describe_winner(result)


def test_noise_that_is_undefined(tmp_path):
    """A part of the images has no labelled pixel."""
    _, others = split_images(range(8), 4, 0)
    fidelity = failing(predict=lambda images, each: images == others[:1])
    budget = Budget(max_drop=2.0)
    result = tune_fidelity(fidelity, budget, tmp_path, space=SMALL, limits=LIMITS)
    assert result.check is not None and result.check.drop_noise is None


def test_a_measure_that_is_undefined_under_a_setting(tmp_path):
    """As the mIoU of fine classes that are nowhere once tokens are merged."""

    class Undefined(FakeFidelity):
        def measure(self, token_merging):
            values = super().measure(token_merging)
            return values if token_merging in ('none', 'hq') else {'mIoU': values['mIoU']}

    result = tune_fidelity(
        Undefined(), Budget(max_drop=2.0), tmp_path, space=SMALL, limits=LIMITS, by='changed'
    )
    assert {point.preset for point in result.points} == {'none', 'hq'}
    assert {each.reason for each in result.failures} == {'changed is undefined on these images'}
