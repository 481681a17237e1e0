"""Makes randomness depend on where a run stands, not on what happened before.

A run that was interrupted can then go on exactly as if it had not been: every training step and
every sample draws from its own seed, and there is no state of a generator that would have to be
saved, neither of this process nor of the workers that load data ahead of it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import BatchSampler, DataLoader, Sampler

_STEP, _SAMPLE = 0, 1


def seed_step(seed: int, iteration: int) -> None:
    """Seeds Python, NumPy and PyTorch (every device) for one training step."""
    derived = _derive(seed, _STEP, iteration)
    _seed_cpu(derived)
    torch.manual_seed(derived)


class Position(int):
    """The index of a sample in its dataset, with the seed of the place that it has in the run."""

    seed: int

    def __new__(cls, index: int, seed: int) -> Position:
        position = super().__new__(cls, index)
        position.seed = seed
        return position

    def __reduce__(self) -> tuple[Any, ...]:  # on its way to a worker
        return Position, (int(self), self.seed)


class Positions(Sampler):
    """A sampler whose indices know their place in the run.

    Places are counted over all processes, so that a sample gets the same augmentation however many
    processes share the work.

    Args:
        sampler: InfiniteSampler, DefaultSampler, or another that deals its indices out to the
            processes in turn.
        seed: of the run, for a sampler that has none. The order and every sample's augmentation
            follow from ``sampler.seed``.

    Attributes:
        pass_over: how many samples the next round through a sampler that ends leaves out.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self.sampler = sampler
        if getattr(sampler, 'seed', None) is None:
            sampler.seed = seed
        self._rank, self._world_size = get_dist_info()
        self._done = 0
        self.pass_over = 0
        if hasattr(sampler, 'skip'):
            sampler.skip = self._skip

    def __iter__(self) -> Iterator[Position]:
        epoch = int(getattr(self.sampler, 'epoch', 0))
        left_out, self.pass_over = self.pass_over, 0
        if not isinstance(self.sampler, InfiniteSampler):  # which goes on where it was
            self._done = 0
        for index in self.sampler:
            number = self._done
            self._done += 1
            if number >= left_out:
                place = number * self._world_size + self._rank
                yield Position(index, _derive(self.sampler.seed, _SAMPLE, epoch, place))

    def __len__(self) -> int:
        return len(self.sampler)

    def _skip(self, samples: int) -> None:
        """Stands in for the sampler's own ``skip``, which mmengine calls to resume."""
        type(self.sampler).skip(self.sampler, samples)
        self._done = samples


def make_repeatable(loader: DataLoader, seed: int) -> Positions | None:
    """Gives every sample of a data loader its own seed.

    Returns:
        Its sampler now; None if the loader takes its batches in a way of its own (a batch sampler
        of another kind, or a dataset that fetches whole batches), which is left as it is.
    """
    already = positions_of(loader)
    if already is not None:
        return already
    batches, dataset = loader.batch_sampler, loader.dataset
    if type(batches) is not BatchSampler or hasattr(dataset, '__getitems__'):
        return None
    positions = Positions(batches.sampler, seed)
    batches.sampler = positions
    # PyTorch's data loader asks this for a whole batch, if it is there
    dataset.__getitems__ = functools.partial(_fetch, dataset)  # type: ignore[attr-defined]
    return positions


def positions_of(loader: Any) -> Positions | None:
    """Returns the sampler that ``make_repeatable`` put into a data loader, if it did."""
    sampler = getattr(getattr(loader, 'batch_sampler', None), 'sampler', None)
    return sampler if isinstance(sampler, Positions) else None


def _fetch(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """Loads the samples of a batch, each under its own seed, and leaves the generators as found."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    samples = []
    try:
        for index in indices:
            if isinstance(index, Position):
                _seed_cpu(index.seed)
            samples.append(dataset[int(index)])
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)
    return samples


def _derive(*parts: int) -> int:
    """Makes one seed of 64 bits out of several numbers, none of which may be negative."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def _seed_cpu(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
