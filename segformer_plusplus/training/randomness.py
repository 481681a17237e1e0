"""Randomness that depends on where a run stands, not on what happened before.

A run that was interrupted can then go on exactly as if it had not been: every training step and
every sample draws from its own seed, and there is no state of a generator that would have to be
saved, neither of this process nor of the workers that load data ahead of it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import BatchSampler, DataLoader, Sampler, get_worker_info

_STEP, _SAMPLE = 0, 1


def seed_step(seed: int, iteration: int) -> None:
    """Seed Python, NumPy and PyTorch (every device) for one training step."""
    _seed(_derive(seed, _STEP, iteration))


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

    The place is that among the samples of all processes, so that a sample gets the same
    augmentation however many processes share the work.

    Args:
        sampler: InfiniteSampler, DefaultSampler, or another that deals its indices out to the
            processes in turn.
        seed: of the run; a sampler with a ``seed`` of its own goes by that.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self.sampler = sampler
        self._seed = seed
        self._rank, self._world_size = get_dist_info()
        # one that never ends goes on where it was when it is asked for another iterator
        self._endless = isinstance(sampler, InfiniteSampler)
        self._done = 0
        self._pass_over = 0
        if hasattr(sampler, 'skip'):
            sampler.skip = self._skip

    @property
    def seed(self) -> int:
        """What the order and every sample's augmentation follow from."""
        own = getattr(self.sampler, 'seed', None)
        return self._seed if own is None else int(own)

    @seed.setter
    def seed(self, seed: int) -> None:
        self._seed = seed
        if getattr(self.sampler, 'seed', None) is not None:
            self.sampler.seed = seed

    def pass_over(self, samples: int) -> None:
        """Leave out the first samples of the next round through a sampler that ends."""
        self._pass_over = samples

    def __iter__(self) -> Iterator[Position]:
        epoch = int(getattr(self.sampler, 'epoch', 0))
        left_out, self._pass_over = self._pass_over, 0
        if not self._endless:
            self._done = 0
        for index in self.sampler:
            number = self._done
            self._done += 1
            if number >= left_out:
                place = number * self._world_size + self._rank
                yield Position(index, _derive(self.seed, _SAMPLE, epoch, place))

    def __len__(self) -> int:
        return len(self.sampler)

    def _skip(self, samples: int) -> None:
        """In place of the sampler's own ``skip``, which mmengine calls to resume."""
        type(self.sampler).skip(self.sampler, samples)
        self._done = samples


class _SeededFetch:
    """Stands in for ``[dataset[i] for i in indices]``, each sample under its own seed."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __call__(self, indices: Sequence[int]) -> list[Any]:
        with _kept_generators():
            return [self._sample(index) for index in indices]

    def _sample(self, index: int) -> Any:
        if isinstance(index, Position):
            _seed(index.seed, cpu_only=True)
        return self._dataset[int(index)]


def make_repeatable(loader: DataLoader, seed: int) -> Positions | None:
    """Give every sample of a data loader its own seed.

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
    # what PyTorch's data loader asks for a whole batch, if it is there
    dataset.__getitems__ = _SeededFetch(dataset)  # type: ignore[attr-defined]
    return positions


def positions_of(loader: Any) -> Positions | None:
    """What :func:`make_repeatable` put into a data loader."""
    sampler = getattr(getattr(loader, 'batch_sampler', None), 'sampler', None)
    return sampler if isinstance(sampler, Positions) else None


@contextlib.contextmanager
def _kept_generators() -> Iterator[None]:
    """Leaves the generators of the training process as they were; those of a worker are its own."""
    if get_worker_info() is not None:
        yield
        return
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)


def _derive(*parts: int) -> int:
    """One seed of 64 bits out of several numbers, none of which may be negative."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def _seed(seed: int, cpu_only: bool = False) -> None:
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    if cpu_only:
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
