"""Proposes which settings are tried next, and keeps what was measured in a file."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ...errors import SegformerPlusPlusError
from ...files import write_json
from ...libraries import require
from ...token_merging import BASELINE
from .space import Setting, Space

STUDY = 'study.json'

_OLD_STUDY = 'study.journal'  # of version 0.1

RANDOM_TRIALS = 15
"""Settings before the sampler begins to learn; those that are given are among them."""

STUBBORN = 5
"""After so many repeated proposals in a row, an untried setting is drawn at random."""

INTERRUPTED_TWICE = 'the process ended during this trial, twice'

_HASH_LENGTH = 64


@dataclass(frozen=True)
class Point:
    """Holds what was measured of a setting.

    Attributes:
        number: of its trial.
        token_merging: as a config takes it; a preset by its name.
        drop: how much worse than no merging, in the points of the measure that is tuned by.
        speed_up: median time without merging over that with it.
        noise: standard error of the speed-up.
        values: all measures by name.
        rounds: in which it was timed.
    """

    number: int
    token_merging: Setting
    drop: float
    speed_up: float
    noise: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)
    rounds: int = 0

    @property
    def preset(self) -> str | None:
        """Its name, if it is one."""
        return self.token_merging if isinstance(self.token_merging, str) else None

    @property
    def is_reference(self) -> bool:
        """Whether nothing is merged."""
        return self.token_merging == BASELINE


@dataclass(frozen=True)
class Failure:
    """Says why a setting could not be measured.

    Attributes:
        number: of its trial.
        token_merging: as a config takes it.
        reason: why.
    """

    number: int
    token_merging: Setting
    reason: str


def require_optuna() -> Any:
    """Returns the module optuna, which logs nothing but warnings from now on.

    Raises:
        MissingDependencyError: it cannot be imported; says how it is installed.
    """
    optuna: Any = require('optuna', 'tuning')
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextlib.contextmanager
def open_study(
    folder: Path, space: Space, identity: Mapping[str, str], seed: int, fresh: bool = False
) -> Iterator[Study]:
    """Opens the study of a folder, new or as it was left; no other call can open it meanwhile.

    Args:
        folder: is made if it is not there.
        space: to search.
        identity: what the numbers depend on, by a name that a message can say.
        seed: of the proposals.
        fresh: forget what was found before.

    Raises:
        MissingDependencyError: optuna is not installed.
        SegformerPlusPlusError: the folder is in use, cannot be written, or holds a study of
            something else.
    """
    require_optuna()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / '.lock', blocking=False).acquire()
    except Timeout as error:
        raise SegformerPlusPlusError(
            f'--out {folder} is in use by another call; wait for it, or name another folder'
        ) from error
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise SegformerPlusPlusError(
            f'cannot write or lock --out {folder}: {reason}; name another folder'
        ) from error
    with lock:
        if fresh:
            for name in (STUDY, _OLD_STUDY):
                (folder / name).unlink(missing_ok=True)
        yield Study(folder, space, identity, seed)


class Study:
    """Proposes settings and remembers what became of them, see ``open_study``.

    What it proposes depends on the seed and on what was found before, not on interruptions: the
    sampler learns from the points of the file and begins anew for each proposal.

    Attributes:
        points: settings that were measured, in the order of their trials.
    """

    def __init__(self, folder: Path, space: Space, identity: Mapping[str, str], seed: int) -> None:
        optuna = require_optuna()
        self._optuna, self._path, self._space, self._seed = optuna, folder / STUDY, space, seed
        self._identity = dict(identity)
        found: dict[str, Any] = {}
        if self._path.exists():
            found = json.loads(self._path.read_text(encoding='utf-8'))
        self._check_identity(found.get('identity', self._identity))
        self.points = [Point(**point) for point in found.get('points', [])]
        # by the identity of the setting
        self._failures = {n: Failure(**each) for n, each in found.get('failures', {}).items()}
        # how often a process has ended during a trial, and its setting; a trial that runs counts
        self._begun: dict[str, list[Any]] = found.get('begun', {})
        for name, (times, setting) in list(self._begun.items()):
            if times > 1:
                number = self._next_number()
                self._failures[name] = Failure(number, setting, INTERRUPTED_TWICE)
                del self._begun[name]
        # what failed in an earlier call is tried once more: another process may hold less memory
        self._again = {
            name: failure.token_merging
            for name, failure in self._failures.items()
            if failure.reason != INTERRUPTED_TWICE
        }
        self._scales = {
            site: optuna.distributions.IntDistribution(0, len(options) - 1)
            for site, options in space.sites.items()
        }
        self._sampled = optuna.create_study(directions=['minimize', 'maximize'])
        for point in self.points:
            self._learn(point)

    @property
    def failures(self) -> list[Failure]:
        """All settings that could not be measured, also those that will be tried once more."""
        return list(self._failures.values())

    @property
    def done(self) -> int:
        """How many settings were measured, or failed in this call."""
        return len(self.points) + len(self._failures.keys() - self._again.keys())

    def propose(self) -> tuple[int, Setting] | None:
        """Returns a trial's number and its setting, a new one; None where all were measured.

        What was interrupted or failed in an earlier call comes first, then the presets, then every
        stage and side by itself: of settings that merge everywhere none would meet a small budget.
        """
        known = {self._space.identify(point.token_merging) for point in self.points}
        known |= self._failures.keys() - self._again.keys()
        for setting in self._candidates(known):
            name = self._space.identify(setting)
            if name not in known:
                self._begun[name] = [self._begun.get(name, [0])[0] + 1, setting]
                self._save()
                return self._next_number(), setting
        return None

    def tell(self, found: Point | Failure) -> None:
        """Keeps what was found of a proposal; this call does not propose a failure again."""
        name = self._space.identify(found.token_merging)
        self._again.pop(name, None)
        self._failures.pop(name, None)
        if isinstance(found, Failure):
            self._failures[name] = found
        else:
            self.points.append(found)
            self._learn(found)
        self.withdraw(found.token_merging)

    def withdraw(self, setting: Setting) -> None:
        """Notes that a trial has ended; one that the user stopped says nothing of its setting."""
        del self._begun[self._space.identify(setting)]
        self._save()

    def _candidates(self, known: set[str]) -> Iterator[Setting]:
        """Yields settings in the order in which they are tried."""
        for _, setting in list(self._begun.values()):
            yield setting
        yield from self._again.values()
        yield from self._space.presets()
        yield from map(self._space.build, self._space.singles())
        for repeat in range(STUBBORN):
            yield self._space.build(self._sample(repeat))
        inside = sum(self._space.find(each.token_merging) is not None for each in self._ended())
        generator = random.Random(f'{self._seed} {len(known)}')
        while inside < self._space.size:
            yield self._space.build(
                {site: generator.randrange(scale.high + 1) for site, scale in self._scales.items()}
            )

    def _sample(self, repeat: int) -> dict[str, int]:
        """Asks the sampler; the same numbers follow after an interruption."""
        seed = np.random.SeedSequence([self._seed, self.done, repeat]).generate_state(1)[0]
        self._sampled.sampler = self._optuna.samplers.TPESampler(
            n_startup_trials=RANDOM_TRIALS, seed=int(seed)
        )
        trial = self._sampled.ask()
        choices = {
            site: trial.suggest_int(site, scale.low, scale.high)
            for site, scale in self._scales.items()
        }
        # the sampler learns from it once it was measured, see _learn
        self._sampled.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        return choices

    def _learn(self, point: Point) -> None:
        """Tells the sampler of a point, if the space has it."""
        choices = self._space.find(point.token_merging)
        if choices is not None:
            values = [point.drop, point.speed_up]
            self._sampled.add_trial(
                self._optuna.trial.create_trial(
                    params=choices, distributions=self._scales, values=values
                )
            )

    def _ended(self) -> list[Point | Failure]:
        return [*self.points, *self.failures]

    def _next_number(self) -> int:
        return max((each.number for each in self._ended()), default=-1) + 1

    def _save(self) -> None:
        content = dict(
            identity=self._identity,
            points=list(map(asdict, self.points)),
            failures={name: asdict(failure) for name, failure in self._failures.items()},
            begun=self._begun,
        )
        write_json(self._path, content)

    def _check_identity(self, there: Mapping[str, str]) -> None:
        here = self._identity
        others = [
            f'another {key}{_say_both(there.get(key), here.get(key))}'
            for key in {**here, **there}
            if there.get(key) != here.get(key)
        ]
        if not self._path.exists() and (self._path.parent / _OLD_STUDY).exists():
            others = ['another version of this package']
        if others:
            raise SegformerPlusPlusError(
                f'--out {self._path.parent} holds a search with {" and ".join(others)}; name '
                'another folder, or start anew with --fresh'
            )


def _say_both(there: str | None, here: str | None) -> str:
    """Says the values where they are for people: no hashes, no spaces to search."""
    if there is None or here is None or max(len(there), len(here)) >= _HASH_LENGTH:
        return ''
    return f' ({there}, not {here})'
