"""A search that is interrupted or killed goes on; what it left behind does not stop it."""

import errno
import fcntl
import itertools
import json
import os
import signal
import sys
import time

import pytest
from training.tiny_training import fork, in_child, wait

from evaluation.tuning.fakes import FakeFidelity, found, search
from segformer_plusplus import MissingDependencyError, SegformerPlusPlusError
from segformer_plusplus.evaluation.tuning import Space
from segformer_plusplus.evaluation.tuning.study import INTERRUPTED_TWICE, STUDY
from segformer_plusplus.token_merging import PRESETS

TRIALS = 24


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """What is found in one go."""
    return search(tmp_path_factory.mktemp('whole'), max_drop=1.0, trials=TRIALS)


def part(folder, wait=None, trials=TRIALS, **options):
    return search(folder, FakeFidelity(wait=wait), max_drop=1.0, trials=trials, **options)


def trials_in(folder):
    study = folder / STUDY
    return len(json.loads(study.read_text())['points']) if study.exists() else 0


@pytest.mark.parametrize('after', [3, 16])
def test_killed_and_gone_on(after, whole, tmp_path):
    """By SIGKILL, in the middle of a trial: a preset, and one of the sampler's."""
    folder, inside = tmp_path / 'cut', tmp_path / 'inside'

    def slow():
        if trials_in(folder) == after:
            inside.touch()
            time.sleep(60)

    child = fork(lambda: part(folder, slow), tmp_path / 'log')
    end = time.monotonic() + 40
    while not inside.exists() and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    assert wait(child) == -signal.SIGKILL
    assert trials_in(folder) == after
    fidelity = FakeFidelity()
    result = search(folder, fidelity, max_drop=1.0, trials=TRIALS)
    assert found(result) == found(whole)
    assert result.winner.token_merging == whole.winner.token_merging
    # those that were there were not measured again, except for the check
    others = [each for each in fidelity.measured() if each != result.winner.token_merging]
    assert len(others) <= TRIALS - after


def test_a_trial_that_ends_the_process_twice_is_marked(tmp_path):
    """As where the system kills a process that takes too much memory."""
    folder = tmp_path / 'out'

    def die():
        if trials_in(folder) == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(2):
        assert in_child(lambda: part(folder, die), tmp_path / 'log') == -signal.SIGKILL
    result = part(folder)
    assert [failure.reason for failure in result.failures] == [INTERRUPTED_TWICE]
    assert len(result.points) == TRIALS - 1


@pytest.mark.parametrize('after', [3, 16])
def test_ctrl_c_in_the_same_trial_again_and_again(after, whole, tmp_path):
    def stop():
        raise KeyboardInterrupt

    part(tmp_path, trials=after)
    for _ in range(3):
        cut = part(tmp_path, stop)
        # what earlier calls have found is there, and what this one has
        assert cut.interrupted and cut.winner is None and found(cut) == found(whole)[:after]
    last = part(tmp_path)
    assert last.failures == [] and found(last) == found(whole)
    assert not last.interrupted and last.winner.speed_up == whole.winner.speed_up


def test_ctrl_c_in_a_large_space_keeps_what_earlier_calls_and_this_one_found(tmp_path):
    calls = itertools.count()

    def interrupt():
        if next(calls) == 3:
            raise KeyboardInterrupt

    space = Space()
    in_one_go = part(tmp_path / 'whole', trials=20, space=space)
    part(tmp_path / 'cut', trials=14, space=space)
    cut = part(tmp_path / 'cut', interrupt, trials=20, space=space)
    assert cut.interrupted and found(cut) == found(in_one_go)[: 14 + 3]
    assert found(part(tmp_path / 'cut', trials=20, space=space)) == found(in_one_go)


def test_what_failed_or_was_interrupted_comes_first(tmp_path):
    """Before the presets that are left, and before what the sampler would propose."""
    calls = itertools.count()

    def fail():
        if next(calls) == 17:  # a setting of the sampler's
            raise RuntimeError('out of luck')

    result = part(tmp_path, fail, trials=20)
    failed = result.failures[0].token_merging
    fidelity = FakeFidelity()
    search(tmp_path, fidelity, max_drop=1.0, trials=TRIALS)
    assert fidelity.measured()[0] == failed
    # as a call leaves it that is killed in the last preset
    folder = tmp_path / 'begun'
    part(folder, trials=2)
    content = json.loads((folder / STUDY).read_text())
    last = [*PRESETS][-1]
    assert last not in [point['token_merging'] for point in content['points']]
    content['begun'] = {Space().identify(last): [1, last]}
    (folder / STUDY).write_text(json.dumps(content))
    fidelity = FakeFidelity()
    search(folder, fidelity, max_drop=1.0, trials=4)
    assert fidelity.measured()[0] == last


def test_one_call_at_a_time(tmp_path):
    part(tmp_path, trials=2)
    with (tmp_path / '.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SegformerPlusPlusError, match='in use by another call'):
            part(tmp_path)
    part(tmp_path, trials=2)


def test_folders_that_are_refused(tmp_path, monkeypatch):
    (tmp_path / 'study.journal').write_text('{}')
    with pytest.raises(SegformerPlusPlusError, match='another version of this package; name'):
        part(tmp_path)
    (tmp_path / 'out').write_text('')
    with pytest.raises(SegformerPlusPlusError, match='cannot write or lock --out'):
        part(tmp_path / 'out')

    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, 'flock', no_locks)
    with pytest.raises(SegformerPlusPlusError, match='or lock --out .*: .*name another folder'):
        part(tmp_path / 'other')


def test_without_optuna(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'optuna', None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'segformer-plusplus\[tune\]'"):
        part(tmp_path)
