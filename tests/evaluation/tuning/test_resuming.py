"""A search that is killed goes on; what it left behind does not stop it."""

import errno
import fcntl
import json
import os
import signal
import time

import pytest
from training.tiny_training import fork, in_child, wait

from evaluation.tuning.fakes import SMALL_SPACE, FakeFidelity
from segformer_plusplus import MissingDependencyError, SegformerPlusPlusError
from segformer_plusplus.evaluation.tuning import Budget, Limits, Space, tune_fidelity
from segformer_plusplus.evaluation.tuning.study import INTERRUPTED_TWICE, STUDY

SMALL = Space(SMALL_SPACE)
BUDGET = Budget(max_drop=1.0)
LIMITS = Limits(trials=24, images=4)


def search(folder, **changes):
    return tune_fidelity(FakeFidelity(**changes), BUDGET, folder, space=SMALL, limits=LIMITS)


def found(result):
    return [(point.token_merging, point.drop, point.speed_up) for point in result.points]


def trials_in(folder):
    study = folder / STUDY
    return len(json.loads(study.read_text())['points']) if study.exists() else 0


@pytest.mark.parametrize('after', [3, 16])
def test_killed_and_gone_on(after, tmp_path):
    """By SIGKILL, in the middle of a trial: a preset, and one of the sampler's."""
    whole = search(tmp_path / 'whole')
    folder, inside = tmp_path / 'cut', tmp_path / 'inside'

    def slow():
        if trials_in(folder) == after:
            inside.touch()
            time.sleep(60)

    child = fork(lambda: search(folder, wait=slow), tmp_path / 'log')
    end = time.monotonic() + 40
    while not inside.exists() and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    assert wait(child) == -signal.SIGKILL
    assert trials_in(folder) == after
    fidelity = FakeFidelity()
    result = tune_fidelity(fidelity, BUDGET, folder, space=SMALL, limits=LIMITS)
    assert found(result) == found(whole)
    assert result.winner.token_merging == whole.winner.token_merging
    # those that were there were not measured again, except for the check
    others = [each for each in fidelity.measured() if each != result.winner.token_merging]
    assert len(others) <= LIMITS.trials - after


def test_a_trial_that_ends_the_process_twice_is_marked(tmp_path):
    """As where the system kills a process that takes too much memory."""

    def fatal(folder):
        def die():
            if trials_in(folder) == 4:
                os.kill(os.getpid(), signal.SIGKILL)

        return lambda: search(folder, wait=die)

    for _ in range(2):
        assert in_child(fatal(tmp_path / 'out'), tmp_path / 'log') == -signal.SIGKILL
    result = search(tmp_path / 'out')
    assert [failure.reason for failure in result.failures] == [INTERRUPTED_TWICE]
    assert len(result.points) == LIMITS.trials - 1


def test_the_study_of_an_earlier_version_is_refused(tmp_path):
    (tmp_path / 'study.journal').write_text('{}')
    with pytest.raises(SegformerPlusPlusError, match='another version of this package; name'):
        search(tmp_path)


def test_one_call_at_a_time(tmp_path):
    search(tmp_path)
    with (tmp_path / '.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SegformerPlusPlusError, match='in use by another call'):
            search(tmp_path)
    search(tmp_path)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, 'flock', refuse)
    with pytest.raises(SegformerPlusPlusError, match='or lock --out .*: .*name another folder'):
        search(tmp_path)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / 'out').write_text('')
    with pytest.raises(SegformerPlusPlusError, match='cannot write or lock --out'):
        search(tmp_path / 'out')


def test_without_optuna(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'optuna', None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'segformer-plusplus\[tune\]'"):
        search(tmp_path)
