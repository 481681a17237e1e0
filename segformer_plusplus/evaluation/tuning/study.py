"""Which settings are tried next, and the file that keeps what was measured."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import SegformerPlusPlusError
from ...libraries import require
from .points import Failure, Point
from .space import Setting, Space

JOURNAL = 'study.journal'

_LOCK = '.lock'

RANDOM_TRIALS = 15
"""Before the sampler begins to learn; those that are given are among them."""

STUBBORN = 5
"""After as many known settings in a row, one is drawn that is not."""

INTERRUPTED_TWICE = 'the process ended during this trial, twice'

_HASH_LENGTH = 64
# notes at optuna's trials
_SETTING, _RESULT, _REASON = 'token_merging', 'result', 'reason'
_PRESET, _SAME_AS, _WITHDRAWN = 'preset', 'same_as', 'withdrawn'


@contextlib.contextmanager
def open_study(
    folder: Path, space: Space, identity: Mapping[str, str], seed: int, fresh: bool = False
) -> Iterator[Study]:
    """The study of a folder, new or as it was left; no other call can open it meanwhile.

    Args:
        folder: is made.
        space: to search.
        identity: what the numbers depend on, by a name that a message can say.
        seed: of the proposals.
        fresh: forget what was found before.

    Raises:
        MissingDependencyError: optuna is not installed.
        SegformerPlusPlusError: the folder is in use, cannot be written, or holds a study of
            something else.
    """
    optuna = require_optuna()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SegformerPlusPlusError(f'cannot write --out {folder}: {error.strerror}') from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SegformerPlusPlusError(
                f'--out {folder} is in use by another call; wait for it, or name another folder'
            ) from error
        except OSError as error:
            raise SegformerPlusPlusError(
                f'cannot lock --out {folder}: {error.strerror}; name another folder'
            ) from error
        journal = folder / JOURNAL
        if fresh:
            journal.unlink(missing_ok=True)
        yield Study(_load(optuna, journal), space, identity, seed, folder)
    finally:
        os.close(lock)


class _NoLock:
    """The folder is locked already; a lock of optuna's would outlive a killed process."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _load(optuna: Any, journal: Path) -> Any:
    """The study of a journal, whose last line a killed process may have left in part."""
    _cut_torn_line(journal)
    backend = optuna.storages.journal.JournalFileBackend(str(journal), lock_obj=_NoLock())
    return optuna.create_study(
        storage=optuna.storages.journal.JournalStorage(backend),
        study_name='tuning',
        directions=['minimize', 'maximize'],
        load_if_exists=True,
    )


def _cut_torn_line(journal: Path) -> None:
    if journal.exists():
        content = journal.read_bytes()
        whole = content[: content.rfind(b'\n') + 1]
        if whole != content:
            os.truncate(journal, len(whole))


@dataclass(frozen=True)
class Proposal:
    """A setting that waits to be measured.

    Attributes:
        number: of its trial.
        token_merging: as a config takes it.
    """

    number: int
    token_merging: Setting


def require_optuna() -> Any:
    """The module optuna, which logs nothing but warnings from now on.

    Raises:
        MissingDependencyError: it cannot be imported; says how it is installed.
    """
    optuna: Any = require('optuna', 'tuning')
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Study:
    """Proposes settings and remembers what became of them, see :func:`open_study`.

    What it proposes depends on the seed and on what was found before, not on interruptions.
    """

    def __init__(
        self, study: Any, space: Space, identity: Mapping[str, str], seed: int, folder: Path
    ) -> None:
        self._optuna = require_optuna()
        self._study = study
        self._space = space
        self._seed = seed
        self._running: dict[int, Any] = {}
        self._check_identity(dict(identity), folder)
        self._end_interrupted()
        # what failed in an earlier call is tried once more: another process may hold less memory
        self._waiting = {
            name for name, failure in self._failed().items() if failure.reason != INTERRUPTED_TWICE
        }

    @property
    def points(self) -> list[Point]:
        """All settings that were measured."""
        return [
            Point(trial.number, trial.user_attrs[_SETTING], **trial.user_attrs[_RESULT])
            for trial in self._with(_RESULT)
        ]

    @property
    def failures(self) -> list[Failure]:
        """All settings that could not be measured, also those that will be tried once more."""
        return list(self._failed().values())

    @property
    def done(self) -> int:
        """How many settings were measured, or failed in this call."""
        return len(self._ended())

    def propose(self) -> Proposal | None:
        """A setting that was not measured yet; None where every one was.

        What was interrupted or failed in an earlier call comes first, then the presets, then every
        stage and side by itself: of settings that merge everywhere none would meet a small budget.
        """
        known = self._known()
        self._enqueue_next(known)
        for repeats in itertools.count():
            if repeats == STUBBORN and not self._enqueue_unknown(known):
                return None
            trial = self._ask()
            token_merging = self._setting(trial)
            name = self._space.identify(token_merging)
            if name not in known:
                trial.set_user_attr(_SETTING, token_merging)
                self._running[trial.number] = trial
                return Proposal(trial.number, token_merging)
            trial.set_user_attr(_SAME_AS, known[name])
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        return None

    def tell(self, point: Point) -> None:
        """What a proposal is worth."""
        trial = self._running.pop(point.number)
        result = asdict(point)
        del result['number'], result['token_merging']
        trial.set_user_attr(_RESULT, result)
        self._study.tell(trial, [point.drop, point.speed_up])

    def tell_failure(self, failure: Failure) -> None:
        """That a proposal could not be measured; this call does not propose it again."""
        trial = self._running.pop(failure.number)
        trial.set_user_attr(_REASON, failure.reason)
        self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        self._waiting.discard(self._identify(trial))

    def withdraw(self, proposal: Proposal) -> None:
        """That the user stopped this trial, which says nothing about it."""
        trial = self._running.pop(proposal.number)
        trial.set_user_attr(_WITHDRAWN, True)
        self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def _with(self, *attributes: str) -> list[Any]:
        """The trials that have one of these notes."""
        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if not set(attributes).isdisjoint(trial.user_attrs)]

    def _check_identity(self, identity: dict[str, str], folder: Path) -> None:
        found = self._study.user_attrs.get('identity')
        if found is None:
            self._study.set_user_attr('identity', identity)
        elif found != identity:
            others = [
                f'another {key}{_say_both(found.get(key), identity.get(key))}'
                for key in {**identity, **found}
                if found.get(key) != identity.get(key)
            ]
            raise SegformerPlusPlusError(
                f'--out {folder} holds a search with {" and ".join(others)}; name another folder, '
                'or start anew with --fresh'
            )

    def _end_interrupted(self) -> None:
        """Ends the trial during which an earlier process ended."""
        state = self._optuna.trial.TrialState
        for trial in self._study.get_trials(states=(state.RUNNING,)):
            result = trial.user_attrs.get(_RESULT)
            if result is None:
                self._study.tell(trial.number, state=state.FAIL)
            else:
                self._study.tell(trial.number, [result['drop'], result['speed_up']])

    def _unmeasured(self) -> dict[str, list[Any]]:
        """The trials of each setting that has no result, by its identity."""
        measured = {self._identify(trial) for trial in self._with(_RESULT)}
        trials: dict[str, list[Any]] = {}
        for trial in self._with(_SETTING):
            if trial.state.is_finished() and self._identify(trial) not in measured:
                trials.setdefault(self._identify(trial), []).append(trial)
        return trials

    def _failed(self) -> dict[str, Failure]:
        """The settings that could not be measured, by their identity."""
        failed = {}
        for name, trials in self._unmeasured().items():
            killed = [t for t in trials if t.user_attrs.keys().isdisjoint({_REASON, _WITHDRAWN})]
            reason = trials[-1].user_attrs.get(_REASON)
            reason = INTERRUPTED_TWICE if len(killed) > 1 else reason
            if reason is not None:
                last = trials[-1]
                failed[name] = Failure(last.number, last.user_attrs[_SETTING], reason)
        return failed

    def _identify(self, trial: Any) -> str:
        return self._space.identify(trial.user_attrs[_SETTING])

    def _ended(self) -> list[Point | Failure]:
        failed = self._failed().items()
        return [*self.points, *(each for name, each in failed if name not in self._waiting)]

    def _known(self) -> dict[str, int]:
        return {self._space.identify(each.token_merging): each.number for each in self._ended()}

    def _enqueue_next(self, known: Mapping[str, int]) -> None:
        """What is proposed before the sampler is asked."""
        for name, trials in self._unmeasured().items():
            if name not in known:
                preset = trials[-1].user_attrs.get(_PRESET)
                notes = {} if preset is None else {_PRESET: preset}
                self._study.enqueue_trial(trials[-1].params, notes)
                return
        for preset in self._space.presets():
            if self._space.identify(preset) not in known:
                self._study.enqueue_trial(self._space.find(preset) or {}, {_PRESET: preset})
                return
        for choices in self._space.singles():
            if self._space.identify(self._space.build(choices)) not in known:
                self._study.enqueue_trial(choices)
                return

    def _ask(self) -> Any:
        # a generator of its own for each trial: after an interruption the same numbers follow
        told = {self._identify(trial) for trial in self._with(_RESULT, _REASON)}
        number = len(told) + len(self._with(_SAME_AS))
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        self._study.sampler = self._optuna.samplers.TPESampler(
            n_startup_trials=RANDOM_TRIALS, seed=seed
        )
        return self._study.ask()

    def _setting(self, trial: Any) -> Setting:
        preset: str | None = trial.user_attrs.get(_PRESET)
        if preset is not None and self._space.find(preset) is None:
            return preset
        choices = {
            site: trial.suggest_int(site, 0, len(options) - 1)
            for site, options in self._space.sites.items()
        }
        return preset or self._space.build(choices)

    def _enqueue_unknown(self, known: Mapping[str, int]) -> bool:
        """Have a setting proposed that was not measured yet; False where there is none."""
        found = [self._space.find(each.token_merging) for each in self._ended()]
        if sum(choices is not None for choices in found) >= self._space.size:
            return False
        generator = random.Random(f'{self._seed} {len(known)}')
        while True:
            choices = {
                site: generator.randrange(len(options))
                for site, options in self._space.sites.items()
            }
            if self._space.identify(self._space.build(choices)) not in known:
                self._study.enqueue_trial(choices)
                return True


def _say_both(there: str | None, here: str | None) -> str:
    """The values, where they are for people: no hashes, no spaces to search."""
    if there is None or here is None or max(len(there), len(here)) >= _HASH_LENGTH:
        return ''
    return f' ({there}, not {here})'
