"""Samples are seeded by their place in the run, whoever loads them."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset

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
