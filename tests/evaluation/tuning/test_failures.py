"""What fails is marked or rejected with its reason, and the rest goes on."""

import json

import pytest

from evaluation.tuning.fakes import (
    EVERY,
    SMALL,
    FakeFidelity,
    every_setting,
    merged_shares,
    search,
    true_loss,
    true_speed_up,
)
from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.evaluation.tuning import Limits
from segformer_plusplus.evaluation.tuning.run import split_images
from segformer_plusplus.evaluation.tuning.selection import FINAL_ROUNDS
from segformer_plusplus.evaluation.tuning.writing import describe_winner

ROUNDS = FINAL_ROUNDS * Limits().rounds
OTHERS = split_images(range(8), 4, 0)[1]


def test_out_of_memory_is_marked_and_the_search_goes_on(tmp_path):
    budget = dict(max_drop=5.0, trials=EVERY)
    result = search(tmp_path, FakeFidelity(refuse=0.5), **budget)
    assert {failure.reason for failure in result.failures} == {'candidate: out of memory'}
    fitting = [
        s for s in every_setting(SMALL) if dict(merged_shares(s)[0]).get('stage 1 kv', 0) < 0.5
    ]
    assert len(result.points) == len({SMALL.identify(s) for s in fitting})
    best = max(true_speed_up(s) for s in fitting if true_loss(s) <= 5.0)
    assert result.winner.speed_up == pytest.approx(best)
    again = FakeFidelity(refuse=0.5)
    second = search(tmp_path, again, **budget)
    assert len(again.measured()) < 5
    # another process may hold less memory: they were tried once more, with the same end
    assert settings_of(second.failures) == settings_of(result.failures)
    third = search(tmp_path, **budget)
    assert third.failures == []
    assert settings_of(third.points) == settings_of([*result.points, *result.failures])


def settings_of(found):
    return sorted(json.dumps(each.token_merging) for each in found)


class Failing(FakeFidelity):
    """Raises where a predicate of the variants and rounds, or images and setting, says so."""

    def __init__(self, time=None, predict=None, error=None):
        super().__init__()
        self.fails_time, self.fails_predict = time, predict
        self.error = error or SegformerPlusPlusError('candidate: out of memory')

    def time(self, variants, rounds=10, warmup=2, taken=None):
        if self.fails_time is not None and self.fails_time(variants, rounds):
            raise self.error
        return super().time(variants, rounds, warmup)

    def predict(self, token_merging):
        if self.fails_predict is not None and self.fails_predict(self.indices, token_merging):
            raise self.error
        return super().predict(token_merging)


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('CUBLAS_STATUS_ALLOC_FAILED\nwhen calling'),
        MemoryError('no memory'),
        IndexError('of a strategy'),
    ],
)
def test_any_failure_of_a_trial_is_marked(error, tmp_path):
    fidelity = Failing(time=lambda variants, _: variants.get('candidate') == 'hq', error=error)
    result = search(tmp_path, fidelity, trials=8)
    (failure,) = result.failures
    assert failure.token_merging == 'hq' and len(result.points) == 7
    assert failure.reason == ' '.join(f'{type(error).__name__}: {error}'.split())


@pytest.mark.parametrize(
    ('fails', 'reason'),
    [
        ('time', 'it could not be timed anew: candidate: out of memory'),
        ('predict', 'it could not be checked: candidate: out of memory'),
    ],
)
def test_a_finalist_that_fails_is_rejected(fails, reason, tmp_path):
    fair = search(tmp_path / 'a')
    best = fair.winner.token_merging
    fidelity = {
        'time': Failing(time=lambda variants, n: n == ROUNDS and best in variants.values()),
        'predict': Failing(predict=lambda images, each: images == OTHERS and each == best),
    }[fails]
    result = search(tmp_path / 'b', fidelity)
    (rejected,) = result.rejected
    assert rejected.point.token_merging == best and rejected.check is None
    assert rejected.reason == reason
    others = [p for p in fair.points if p.token_merging != best and p.drop <= 2.0]
    assert result.winner.speed_up == pytest.approx(max(p.speed_up for p in others))
    assert result.check is not None


def test_a_check_set_that_cannot_be_measured_leaves_the_winner_unchecked(tmp_path):
    result = search(tmp_path, Failing(predict=lambda images, _: images == OTHERS))
    assert result.winner is not None and result.check is None
    assert result.unchecked == 'candidate: out of memory'
    assert 'Not checked: candidate: out of memory.' in describe_winner(result)


def test_noise_that_is_undefined(tmp_path):
    """A part of the images has no labelled pixel."""
    result = search(tmp_path, Failing(predict=lambda images, _: images == OTHERS[:1]))
    assert result.check is not None and result.check.drop_noise is None


@pytest.mark.parametrize(
    ('values', 'reason'),
    [({}, 'changed is undefined on these images'), ({'changed': float('nan')}, 'changed is nan')],
)
def test_a_measure_that_is_undefined_under_a_setting(values, reason, tmp_path):
    """As the mIoU of fine classes that are nowhere once tokens are merged."""

    class Undefined(FakeFidelity):
        def measure(self, token_merging):
            measured = super().measure(token_merging)
            kept = token_merging in ('none', 'hq')
            return measured if kept else {'mIoU': measured['mIoU'], **values}

    result = search(tmp_path, Undefined(), by='changed')
    assert {point.preset for point in result.points} == {'none', 'hq'}
    assert {each.reason for each in result.failures} == {reason}
