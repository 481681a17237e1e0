"""Finalists, the check on other images, the front."""

import random

import pytest

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.engine.benchmarking import Timing
from segformer_plusplus.tuning import Budget, Check, Limits, Point, Space, tune_fidelity
from segformer_plusplus.tuning.evaluation import speed_up_of
from segformer_plusplus.tuning.points import pareto_front
from segformer_plusplus.tuning.run import split_images
from segformer_plusplus.tuning.selection import FINAL_ROUNDS, MAX_CHECKS, holds
from tuning.fakes import SMALL_SPACE, FakeFidelity, true_loss

SMALL = Space(SMALL_SPACE)
LIMITS = Limits(trials=20, images=4)


@pytest.mark.parametrize('seed', range(20))
def test_front_against_brute_force(seed):
    draw = random.Random(seed)
    # few values: many ties
    points = [Point(k, 'none', draw.randrange(6) / 2, draw.randrange(6) / 2) for k in range(25)]
    front = pareto_front(points)
    for point in points:
        beaten = any(
            other.drop <= point.drop
            and other.speed_up >= point.speed_up
            and (other.drop < point.drop or other.speed_up > point.speed_up)
            for other in points
        )
        same = [p for p in front if (p.drop, p.speed_up) == (point.drop, point.speed_up)]
        assert len(same) == (0 if beaten else 1)


def test_finalists_are_timed_together_with_more_rounds(tmp_path):
    fidelity = FakeFidelity()
    result = tune_fidelity(fidelity, Budget(max_drop=2.0), tmp_path, space=SMALL, limits=LIMITS)
    rounds = FINAL_ROUNDS * LIMITS.rounds
    assert result.winner.rounds == rounds
    together = [each for kind, which, each in fidelity.log if (kind, which) == ('time', (rounds,))]
    assert together[0] == 'none' and len(together) > 3


def test_a_lucky_time_does_not_win(tmp_path):
    """One trial was timed much too fast; timed anew, it is what it is."""
    fair = tune_fidelity(
        FakeFidelity(), Budget(max_drop=2.0), tmp_path / 'fair', space=SMALL, limits=LIMITS
    )
    lucky = next(p for p in fair.points if p.drop < 2 and p.number != fair.winner.number
                 and not p.is_reference)  # fmt: skip

    class Lucky(FakeFidelity):
        def time(self, variants, rounds=10, warmup=2, taken=None):
            timings = super().time(variants, rounds, warmup)
            if rounds == LIMITS.rounds and variants.get('candidate') == lucky.token_merging:
                timings['candidate'] = Timing((timings['candidate'].median / 3,) * rounds)
            return timings

    result = tune_fidelity(
        Lucky(), Budget(max_drop=2.0), tmp_path / 'lucky', space=SMALL, limits=LIMITS
    )
    assert result.winner.token_merging == fair.winner.token_merging


def test_the_next_best_where_the_check_fails(tmp_path):
    """On the images of the check every setting loses ten times as much."""
    _, others = split_images(8, 4, 0)
    budget = Budget(max_drop=2.0)
    result = tune_fidelity(
        FakeFidelity(harsh=others),
        budget,
        tmp_path,
        space=SMALL,
        limits=Limits(trials=1000, images=4),
    )
    for point, check in result.selection.rejected:
        assert point.drop <= 2.0 < check.drop == pytest.approx(10 * point.drop)
    assert len(result.selection.rejected) == MAX_CHECKS
    assert result.winner is None
    assert result.selection.nearest.drop == pytest.approx(
        min(check.drop for _, check in result.selection.rejected)
    )


def test_a_check_that_a_slower_setting_passes(tmp_path):
    _, others = split_images(8, 4, 0)
    fidelity = FakeFidelity(harsh=others)
    budget = Budget(max_drop=0.3)
    result = tune_fidelity(fidelity, budget, tmp_path, space=SMALL, limits=LIMITS)
    assert result.selection.rejected
    assert result.winner is not None and 10 * true_loss(result.winner.token_merging) <= 0.3
    assert result.check.images == 4
    assert result.check.drop == pytest.approx(10 * result.winner.drop)


@pytest.mark.parametrize(
    ('drop', 'noise', 'kept'), [(0.1, 0.0, True), (0.14, 0.05, True), (0.16, 0.05, False),
                                (0.11, None, False)],
)  # fmt: skip
def test_a_miss_within_the_noise_counts_as_kept(drop, noise, kept):
    check = Check(4, drop, noise, 1.5, 0.1, {})
    assert holds(check, Budget(max_drop=0.1)) is kept


def test_a_speed_up_within_the_noise_counts_as_kept():
    check = Check(4, 0.1, 0.5, 1.5, 0.1, {})
    assert holds(check, Budget(min_speedup=1.55))
    assert not holds(check, Budget(min_speedup=1.7))


@pytest.mark.parametrize('count', [1, 2, 3, 10, 300])
@pytest.mark.parametrize('images', [None, 1, 4, 500])
def test_images_are_searched_on_or_checked_on(count, images):
    searched, others = split_images(count, images, 3)
    assert not set(searched) & set(others)
    assert set(searched) | set(others) <= set(range(count))
    assert len(searched) == min(count, images or min(50, max(1, count // 2)))
    assert len(others) == min(count - len(searched), len(searched))


@pytest.mark.parametrize('count', [1, 4])
def test_too_few_images_for_a_check(count, tmp_path):
    limits = Limits(trials=12, images=4)
    result = tune_fidelity(
        FakeFidelity(count), Budget(max_drop=2.0), tmp_path, space=SMALL, limits=limits
    )
    assert result.winner is not None and result.check is None and result.check_images == 0


def test_one_image_for_the_check_has_no_noise(tmp_path):
    result = tune_fidelity(
        FakeFidelity(2), Budget(max_drop=2.0), tmp_path, space=SMALL, limits=Limits(trials=12)
    )
    assert result.check.images == 1 and result.check.drop_noise is None


def test_no_image(tmp_path):
    with pytest.raises(SegformerPlusPlusError, match='no image'):
        tune_fidelity(FakeFidelity(0), Budget(max_drop=1.0), tmp_path)


def test_speed_up_and_its_noise():
    assert speed_up_of(Timing((2.0, 2.0, 2.0)), Timing((1.0, 1.0, 1.0))) == (2.0, 0.0)
    ratio, noise = speed_up_of(Timing((2.0, 2.2, 1.8)), Timing((1.0, 1.0, 1.0)))
    assert ratio == 2.0
    assert noise == pytest.approx(1.2533 * 0.2 / 3**0.5, rel=1e-4)


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        (dict(), 'either'),
        (dict(max_drop=0.1, min_speedup=2.0), 'either'),
        (dict(max_drop=float('nan')), 'max-drop is nan'),
        (dict(min_speedup=1.0), 'above 1'),
        (dict(min_speedup=float('inf')), 'above 1'),
    ],
)
def test_wrong_budgets(arguments, named):
    with pytest.raises(SegformerPlusPlusError, match=named):
        Budget(**arguments)


@pytest.mark.parametrize(
    'arguments', [dict(trials=0), dict(images=0), dict(rounds=-1), dict(minutes=0.0), dict(seed=-1)]
)
def test_wrong_limits(arguments):
    with pytest.raises(SegformerPlusPlusError, match='give'):
        Limits(**arguments)
