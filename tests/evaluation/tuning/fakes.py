"""Defines a fidelity of known costs and gains: sums over the stages and sides that merge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.evaluation.timing import Timing
from segformer_plusplus.evaluation.tuning import Budget, Limits, Space, TuneResult, tune_fidelity
from segformer_plusplus.token_merging import PRESETS, build_token_merging

TOKENS = torch.rand(1, 1024, 8, generator=torch.Generator().manual_seed(1))
COSTS = {'q': (0.05, 0.06, 0.08, 0.02), 'kv': (0.2, 0.1, 0.09, 0.03)}
"""Share of the time that goes if all tokens are merged."""

WEIGHED = 0.8
"""By which the loss of merged keys is multiplied where they are weighed."""

LOSSES = {'q': (1.0, 0.6, 0.3, 0.1), 'kv': (0.3, 0.4, 0.8, 1.2)}
"""Points that go then; they grow with the square of the share."""

SMALL_SPACE = [
    dict(type='BipartiteSoftMatching2d', stride=2, ratio=[0.3, 0.6], sides=['kv'], stages=[1, 3]),
    dict(type='NeighborMerging2d', stride=2, sides=['q'], stages=[2, 4]),
]
"""3 * 3 * 2 * 2 settings."""

SMALL = Space(SMALL_SPACE)
EVERY = 1000
"""So many trials measure all settings of the small space."""


def search(
    folder: Any,
    fidelity: FakeFidelity | None = None,
    *,
    max_drop: float | None = None,
    min_speedup: float | None = None,
    trials: int = 20,
    images: int | None = 4,
    seed: int = 0,
    timeout: float | None = None,
    **options: Any,
) -> TuneResult:
    """Tunes, by default within a drop of 2 points, in the small space, on half of 8 images."""
    if max_drop is None and min_speedup is None:
        max_drop = 2.0
    return tune_fidelity(
        fidelity or FakeFidelity(),
        Budget(max_drop, min_speedup),
        folder,
        limits=Limits(trials, timeout, images, seed=seed),
        **{'space': SMALL, **options},
    )


def found(result: TuneResult) -> list[Any]:
    """Returns what the trials found; how many rounds there were depends on the finalists."""
    return [(point.token_merging, point.drop, point.speed_up) for point in result.points]


class FakeFidelity:
    """Keeps the contract of ``fidelity.Fidelity`` that the tuner uses.

    Args:
        count: images.
        has_truth: 'mIoU' is measured, else only 'changed'.
        harsh: images on which a setting loses ``harshness`` times as much.
        harshness: see there.
        refuse: share of merged tokens of 'stage 1 kv' from which the memory does not suffice.
        wait: is called at every measurement.
    """

    def __init__(
        self,
        count: int = 8,
        has_truth: bool = True,
        harsh: Sequence[int] = (),
        harshness: float = 10.0,
        refuse: float = 2.0,
        wait: Any = None,
    ) -> None:
        self.indices = list(range(count))
        self.has_truth = has_truth
        self.harsh = set(harsh)
        self.harshness = harshness
        self.refuse = refuse
        self.wait = wait
        self.main_measure = 'mIoU' if has_truth else 'changed'
        self.timed = 'nothing to nothing'
        self.device = torch.device('cpu')
        self.log: list[tuple[str, tuple[int, ...], Any]] = []

    @property
    def shape(self) -> tuple[int, int]:
        """Returns that of the first image: each has one of its own."""
        return 64, 96 + self.indices[0]

    @property
    def num_images(self) -> int:
        return len(self.indices)

    @property
    def pictures(self) -> Sequence[int]:
        return self.indices

    def subset(self, indices: Sequence[int]) -> FakeFidelity:
        assert indices and all(0 <= index < self.num_images for index in indices)
        part = type(self).__new__(type(self))
        part.__dict__.update(self.__dict__, indices=[self.indices[index] for index in indices])
        return part

    def measure(self, token_merging: Any) -> dict[str, float]:
        return self.compare(self.predict(token_merging))

    def predict(self, token_merging: Any) -> list[float]:
        """Returns the loss on each image."""
        self.log.append(('predict', tuple(self.indices), token_merging))
        if self.wait is not None and token_merging != 'none':
            self.wait()
        loss = true_loss(token_merging)
        return [loss * (self.harshness if index in self.harsh else 1.0) for index in self.indices]

    def compare(self, outcomes: Sequence[float]) -> dict[str, float]:
        assert len(outcomes) == len(self.indices)
        loss = sum(outcomes) / len(outcomes)
        values = {'changed': 2 * loss}
        return {'mIoU': 70.0 - loss, **values} if self.has_truth else values

    def drop(self, values: Mapping[str, float]) -> float:
        return 70.0 - values['mIoU'] if self.has_truth else values['changed']

    def time(
        self, variants: Mapping[str, Any], rounds: int = 10, warmup: int = 2, taken: Any = None
    ) -> dict[str, Timing]:
        for each in variants.values():
            self.log.append(('time', (rounds,), each))
            if dict(merged_shares(each)[0]).get('stage 1 kv', 0.0) >= self.refuse:
                raise SegformerPlusPlusError('candidate: out of memory')
        return {
            name: Timing((1 / true_speed_up(each),) * rounds) for name, each in variants.items()
        }

    def measured(self) -> list[Any]:
        """Returns the settings of trials, in order."""
        most = max((len(images) for kind, images, _ in self.log if kind == 'predict'), default=0)
        return [
            each
            for kind, images, each in self.log
            if kind == 'predict' and len(images) == most and each != 'none'
        ]


def merged_shares(token_merging: Any) -> tuple[list[tuple[str, float]], bool]:
    """Returns (site, share of its tokens that is merged away), and whether the image is halved."""
    built = build_token_merging(token_merging)
    shares = [
        (f'stage {number} {side}', _share(repr(getattr(stage, side)), getattr(stage, side)))
        for number, stage in enumerate(built.stages, 1)
        for side in ('q', 'kv')
        if getattr(stage, side) is not None
    ]
    return shares, built.downsampling is not None


KNOWN: dict[str, float] = {}


def _share(name: str, strategy: Any) -> float:
    if name not in KNOWN:
        KNOWN[name] = 1 - strategy.plan(TOKENS, (32, 32)).num_merged / 1024
    return KNOWN[name]


def true_speed_up(token_merging: Any) -> float:
    shares, halved = merged_shares(token_merging)
    time = 1 - sum(_of(COSTS, site) * share for site, share in shares)
    return (5.0 if halved else 1.0) / time


def true_loss(token_merging: Any) -> float:
    shares, halved = merged_shares(token_merging)
    weighed = {
        f'stage {number} kv'
        for number, stage in enumerate(build_token_merging(token_merging).stages, 1)
        if stage.proportional_attention
    }
    return 6.0 * halved + math.fsum(
        _of(LOSSES, site) * share**2 * (WEIGHED if site in weighed else 1.0)
        for site, share in shares
    )


def _of(table: Mapping[str, Sequence[float]], site: str) -> float:
    _, number, side = site.split()
    return table[side][int(number) - 1]


def every_setting(space: Space) -> list[Any]:
    """Returns all settings of a small space and the presets, by brute force."""
    ranges = (range(len(options)) for options in space.sites.values())
    inside = [
        space.build(dict(zip(space.sites, choices, strict=True)))
        for choices in itertools.product(*ranges)
    ]
    assert len(inside) == space.size
    return [*inside, *PRESETS]
