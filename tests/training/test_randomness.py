"""Samples are seeded by their place in the run, whoever loads them."""

from __future__ import annotations

import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from tiny_training import Sums, config, largest_difference, trained
from torch.utils.data import BatchSampler, DataLoader, Dataset

from segformer_plusplus.training.hooks import StepSeedHook
from segformer_plusplus.training.randomness import (
    Position,
    make_repeatable,
    positions_of,
    seed_step,
)


class Dice(Dataset):
    """Throws three dice for a sample."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        assert type(index) is int
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


def throws(sampler, workers: int = 0, count: int = 6, before=None, seed: int = 7):
    loader = DataLoader(Dice(), 2, sampler=sampler, num_workers=workers, collate_fn=list)
    positions = make_repeatable(loader, seed)
    assert positions is positions_of(loader)
    if before:
        before(loader, positions)
    return [sample for _, batch in zip(range(count), loader, strict=False) for sample in batch]


@pytest.mark.parametrize('kind', [InfiniteSampler, DefaultSampler])
def test_workers_change_nothing(kind):
    expected = throws(kind(Dice(), seed=1))
    assert throws(kind(Dice(), seed=1), workers=2) == expected
    assert throws(kind(Dice(), seed=2)) != expected
    # every sample gets numbers of its own
    assert len({sample[1:] for sample in expected}) == len(expected)


@pytest.mark.skipif(
    not hasattr(InfiniteSampler, 'skip'), reason='this mmengine has no skip, and calls none'
)
def test_an_endless_sampler_goes_on_where_it_was():
    whole = throws(InfiniteSampler(Dice(), seed=1), count=6)
    rest = throws(
        InfiniteSampler(Dice(), seed=1), count=3, before=lambda loader, _: loader.sampler.skip(6)
    )
    assert rest == whole[6:]


def test_an_epoch_goes_on_in_its_middle_and_the_next_begins_at_its_start():
    def second(loader, positions):
        loader.sampler.set_epoch(1)
        positions.pass_over = 2

    whole = throws(
        DefaultSampler(Dice(), seed=1), before=lambda loader, _: loader.sampler.set_epoch(1)
    )
    assert throws(DefaultSampler(Dice(), seed=1), before=second) == whole[2:]
    assert throws(DefaultSampler(Dice(), seed=1)) != whole  # another epoch, other numbers


def test_the_training_process_keeps_its_own_numbers():
    seed_step(1, 10)
    expected = random.random(), np.random.rand(), float(torch.rand(()))
    seed_step(1, 10)
    loader = DataLoader(Dice(), 2, sampler=InfiniteSampler(Dice(), seed=1), collate_fn=list)
    make_repeatable(loader, 7)
    samples = iter(loader)
    seed_step(1, 10)
    next(samples)
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected
    seed_step(1, 11)
    assert random.random() != expected[0]


def test_what_takes_batches_in_its_own_way_is_left_alone():
    class Own(BatchSampler):
        pass

    batches = Own(InfiniteSampler(Dice(), seed=1), 2, False)
    assert make_repeatable(DataLoader(Dice(), batch_sampler=batches), 7) is None


def test_a_position_travels_to_a_worker():
    position = pickle.loads(pickle.dumps(Position(3, 2**63 + 5)))
    assert position == 3 and position.seed == 2**63 + 5


def test_a_sampler_without_a_seed_has_that_of_the_run():
    def of(seed):
        sampler = InfiniteSampler(Dice(), seed=1)
        sampler.seed = None
        return throws(sampler, seed=seed)

    assert of(7) == of(7) != of(8)
    assert throws(InfiniteSampler(Dice(), seed=1), seed=7) == throws(
        InfiniteSampler(Dice(), seed=1), seed=8
    )


@pytest.mark.parametrize('seed', [3, 4])
def test_a_step_has_the_seed_of_the_run(seed):
    hook = StepSeedHook()
    hook.before_train_iter(SimpleNamespace(seed=seed, iter=5), 0)
    found = random.random(), np.random.rand(), float(torch.rand(()))
    seed_step(seed, 5)
    assert found == (random.random(), np.random.rand(), float(torch.rand(())))
    seed_step(7 - seed, 5)
    assert found[0] != random.random() and found[1] != np.random.rand()
    assert found[2] != float(torch.rand(()))


def test_another_seed_is_another_training(data, tmp_path):
    """Order and augmentation of the images, and the first weights."""
    work = {seed: tmp_path / str(seed) for seed in (3, 4)}
    for seed, folder in work.items():
        changes = {'randomness.seed': seed, 'train_cfg.max_iters': 2}
        trained(config(data, folder, **changes), hook=Sums())
    sums = [set((folder / 'sums_0.txt').read_text().split()) for folder in work.values()]
    assert not sums[0] & sums[1]
    assert largest_difference(work[3] / 'iter_2.pth', work[4] / 'iter_2.pth') > 0.01
