"""Proposes which settings are tried next, and keeps what was measured in a file."""

from __future__ import annotations

import contextlib
import itertools
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
from .points import Failure, Point
from .space import Setting, Space

STUDY = 'study.json'

_OLD_STUDY = 'study.journal'  # of version 0.1

_LOCK = '.lock'

RANDOM_TRIALS = 15
"""Settings before the sampler begins to learn; those that are given are among them."""

STUBBORN = 5
"""After as many known settings in a row, one is drawn that is not."""

INTERRUPTED_TWICE = 'the process ended during this trial, twice'

_HASH_LENGTH = 64


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
        lock = FileLock(folder / _LOCK, blocking=False).acquire()
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


@dataclass(frozen=True)
class Proposal:
    """A setting that waits to be measured.

    Attributes:
        number: of its trial.
        token_merging: as a config takes it.
    """

    number: int
    token_merging: Setting


@dataclass
class _Record:
    """What the file holds.

    Attributes:
        identity: what the numbers depend on.
        points: settings that were measured, in the order of their trials.
        failures: settings that could not be measured, by their identity.
        begun: how often a process has ended during a trial, by the identity of its setting; that of
            the trial which runs is counted before it begins.
    """

    identity: dict[str, str]
    points: list[Point] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)
    begun: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _Record | None:
        if not path.exists():
            return None
        content = json.loads(path.read_text(encoding='utf-8'))
        points = [Point(**point) for point in content['points']]
        failures = {name: Failure(**each) for name, each in content['failures'].items()}
        return cls(content['identity'], points, failures, content['begun'])


def require_optuna() -> Any:
    """Returns the module optuna, which logs nothing but warnings from now on.

    Raises:
        MissingDependencyError: it cannot be imported; says how it is installed.
    """
    optuna: Any = require('optuna', 'tuning')
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Study:
    """Proposes settings and remembers what became of them, see :func:`open_study`.

    What it proposes depends on the seed and on what was found before, not on interruptions: the
    sampler learns from the points of the file and begins anew for each proposal.
    """

    def __init__(self, folder: Path, space: Space, identity: Mapping[str, str], seed: int) -> None:
        self._optuna = require_optuna()
        self._path = folder / STUDY
        self._space = space
        self._seed = seed
        self._record = _Record.read(self._path) or _Record(dict(identity))
        self._check_identity(dict(identity))
        for name, (times, setting) in self._record.begun.items():
            if times > 1:
                self._record.failures[name] = Failure(
                    self._next_number(), setting, INTERRUPTED_TWICE
                )
        self._record.begun = {n: each for n, each in self._record.begun.items() if each[0] < 2}
        # what failed in an earlier call is tried once more: another process may hold less memory
        self._again = {
            name: failure.token_merging
            for name, failure in self._record.failures.items()
            if failure.reason != INTERRUPTED_TWICE
        }
        self._sampled = self._optuna.create_study(directions=['minimize', 'maximize'])
        for point in self.points:
            self._learn(point)

    @property
    def points(self) -> list[Point]:
        """All settings that were measured."""
        return list(self._record.points)

    @property
    def failures(self) -> list[Failure]:
        """All settings that could not be measured, also those that will be tried once more."""
        return list(self._record.failures.values())

    @property
    def done(self) -> int:
        """How many settings were measured, or failed in this call."""
        return len(self._record.points) + len(self._record.failures.keys() - self._again.keys())

    def propose(self) -> Proposal | None:
        """Returns a setting that was not measured yet; None where every one was.

        What was interrupted or failed in an earlier call comes first, then the presets, then every
        stage and side by itself: of settings that merge everywhere none would meet a small budget.
        """
        known = {self._space.identify(point.token_merging) for point in self._record.points}
        known |= self._record.failures.keys() - self._again.keys()
        for setting in self._first():
            if self._space.identify(setting) not in known:
                return self._begin(setting)
        for repeat in range(STUBBORN):
            setting = self._space.build(self._sample(repeat))
            if self._space.identify(setting) not in known:
                return self._begin(setting)
        unknown = self._draw_unknown(known)
        return None if unknown is None else self._begin(unknown)

    def tell(self, found: Point | Failure) -> None:
        """Keeps what a proposal is worth; a failure is not proposed again by this call."""
        name = self._space.identify(found.token_merging)
        self._again.pop(name, None)
        self._record.failures.pop(name, None)
        if isinstance(found, Failure):
            self._record.failures[name] = found
        else:
            self._record.points.append(found)
            self._learn(found)
        self._end(name)

    def withdraw(self, proposal: Proposal) -> None:
        """Notes that the user stopped this trial, which says nothing about the setting."""
        self._end(self._space.identify(proposal.token_merging))

    def _first(self) -> Iterator[Setting]:
        """Yields what is tried before the sampler is asked."""
        for _, setting in self._record.begun.values():
            yield setting
        yield from self._again.values()
        yield from self._space.presets()
        yield from map(self._space.build, self._space.singles())

    def _begin(self, setting: Setting) -> Proposal:
        times = self._record.begun.get(self._space.identify(setting), [0])[0]
        self._record.begun[self._space.identify(setting)] = [times + 1, setting]
        self._save()
        return Proposal(self._next_number(), setting)

    def _end(self, name: str) -> None:
        del self._record.begun[name]
        self._save()

    def _save(self) -> None:
        write_json(self._path, asdict(self._record))

    def _next_number(self) -> int:
        ended: list[Point | Failure] = [*self.points, *self.failures]
        return max((each.number for each in ended), default=-1) + 1

    def _learn(self, point: Point) -> None:
        """Tells the sampler of a point, if the space has it."""
        choices = self._space.find(point.token_merging)
        if choices is not None:
            integers = self._optuna.distributions.IntDistribution
            self._sampled.add_trial(
                self._optuna.trial.create_trial(
                    params=choices,
                    distributions={
                        site: integers(0, len(options) - 1)
                        for site, options in self._space.sites.items()
                    },
                    values=[point.drop, point.speed_up],
                )
            )

    def _sample(self, repeat: int) -> dict[str, int]:
        """Asks the sampler; the same numbers follow after an interruption."""
        seed = np.random.SeedSequence([self._seed, self.done, repeat]).generate_state(1)[0]
        self._sampled.sampler = self._optuna.samplers.TPESampler(
            n_startup_trials=RANDOM_TRIALS, seed=int(seed)
        )
        trial = self._sampled.ask()
        choices = {
            site: trial.suggest_int(site, 0, len(options) - 1)
            for site, options in self._space.sites.items()
        }
        # it is learnt from when it was measured, see _learn
        self._sampled.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        return choices

    def _draw_unknown(self, known: set[str]) -> Setting | None:
        ended: list[Point | Failure] = [*self.points, *self.failures]
        inside = [each for each in ended if self._space.find(each.token_merging) is not None]
        if len(inside) >= self._space.size:
            return None
        generator = random.Random(f'{self._seed} {len(known)}')
        for _ in itertools.count():
            choices = {
                site: generator.randrange(len(options))
                for site, options in self._space.sites.items()
            }
            setting = self._space.build(choices)
            if self._space.identify(setting) not in known:
                return setting
        return None

    def _check_identity(self, identity: dict[str, str]) -> None:
        found = self._record.identity
        others = [
            f'another {key}{_say_both(found.get(key), identity.get(key))}'
            for key in {**identity, **found}
            if found.get(key) != identity.get(key)
        ]
        if not self._path.exists() and (self._path.parent / _OLD_STUDY).exists():
            others = ['another version of this package']
        if others:
            raise SegformerPlusPlusError(
                f'--out {self._path.parent} holds a search with {" and ".join(others)}; name '
                'another folder, or start anew with --fresh'
            )


def _say_both(there: str | None, here: str | None) -> str:
    """Says the values, where they are for people: no hashes, no spaces to search."""
    if there is None or here is None or max(len(there), len(here)) >= _HASH_LENGTH:
        return ''
    return f' ({there}, not {here})'
