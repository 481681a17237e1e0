"""A run that was killed, whenever, ends with the weights of one that was not."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.runner import utils
from tiny_training import KILLS, assert_same, config, fork, in_child, run, trained, validated, wait

from segformer_plusplus.training.checkpoint_files import UNFINISHED, iterations


def kill_in_checkpoint(where: str, number: int, share: float) -> None:
    """Makes this process kill itself by SIGKILL at one moment of a checkpoint.

    Args:
        where: 'half' when so much of the file is written, 'unnamed' when all of it is there but its
            name, 'unsaid' before ``last_checkpoint`` names it, 'kept' before the outdated one goes.
        number: in the how manieth checkpoint.
        share: of the file, from 0 to 1.
    """
    put, replace, count = LocalBackend.put, os.replace, 0

    def die(due: bool) -> None:
        if due and count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_put(self, content: bytes, path: str) -> None:
        nonlocal count
        count += 1
        if where == 'half' and count == number:
            put(self, content[: int(share * len(content))], path)
            die(True)
        put(self, content, path)

    def dying_replace(source, target) -> None:
        checkpoint = str(target).endswith('.pth')
        die(where == 'unnamed' and checkpoint)
        replace(source, target)
        die(where == ('unsaid' if checkpoint else 'kept'))

    LocalBackend.put, os.replace = dying_put, dying_replace


def kill_at_any_moment(child: int, work: Path, chance: random.Random) -> None:
    """Kills a child while it reads or builds, or a while after some checkpoints."""
    files = lambda: {path.name for path in work.glob('*.pth')}  # noqa: E731
    end, seen, wanted = time.monotonic() + 60, files(), chance.randrange(3)
    new: set[str] = set()
    while len(new) < wanted:
        assert time.monotonic() < end and os.waitpid(child, os.WNOHANG)[0] == 0
        new |= files() - seen
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.12))
    os.kill(child, signal.SIGKILL)


def test_kills_leave_no_trace(data, calm, tmp_path):
    """``KILLS=20 pytest -k kills`` kills twenty times."""
    length = 5 * KILLS
    changes = {'train_cfg.max_iters': length, 'default_hooks.checkpoint.interval': 1,
               'default_hooks.checkpoint.max_keep_ckpts': 2}  # fmt: skip
    rough, log = tmp_path / 'rough', tmp_path / 'log.txt'
    seed = int.from_bytes(os.urandom(4), 'big')
    print(f'seed of the kills: {seed}')  # shown when the test fails
    chance = random.Random(seed)
    finished = 0
    for kill in range(KILLS):
        where = ('half', 'moment', 'unnamed', 'unsaid', 'kept')[kill % 5]
        number, share = chance.randint(1, 3), chance.random()

        def live(where=where, number=number, share=share) -> None:
            if where != 'moment':
                kill_in_checkpoint(where, number, share)
            run(config(data, rough, **changes), resume=True)

        child = fork(live, log)
        if where == 'moment':
            kill_at_any_moment(child, rough, chance)
        assert wait(child) == -signal.SIGKILL, log.read_text()[-2000:]
        if where in ('half', 'unnamed'):
            assert len(list(rough.glob(f'.iter_*{UNFINISHED}'))) == 1
        # whatever has the name of a checkpoint is one, and the work is not lost
        states = [iterations(path) for path in rough.glob('*.pth')]
        assert max(states, default=0) >= finished
        finished = max(states, default=0)
    assert 0 < finished < length
    trained(config(data, rough, **changes), resume=True)
    assert_same(calm / f'iter_{length}.pth', rough / f'iter_{length}.pth')
    assert not list(rough.glob(f'.*{UNFINISHED}'))
    # an outdated one whose removal a kill forestalled may stay; a disk holds no more than these
    assert len(list(rough.glob('*.pth'))) <= 2 + KILLS


class Terminate(Hook):
    """Ends the whole process group, as a scheduler does."""

    def terminate(self) -> None:
        os.killpg(0, signal.SIGTERM)
        time.sleep(0.3)  # the workers have it, too

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == 5:
            self.terminate()

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 3 and batch_idx == 1:
            self.terminate()


def workers_cfg(data: Path, work: Path):
    cfg = config(data, work)
    cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
    return cfg


def epochs_cfg(data: Path, work: Path):
    """Configures three epochs of four iterations; the second one is interrupted."""
    cfg = config(data, work)
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3)
    cfg.train_dataloader.update(num_workers=1, sampler=dict(type='DefaultSampler', shuffle=True))
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    return cfg


def averaged_cfg(data: Path, work: Path):
    """Configures a validation in which EMAHook has exchanged the weights for their averages."""
    cfg = validated(config(data, work))
    cfg.train_cfg.val_interval = 3
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.3)]
    cfg.val_dataloader.num_workers = 1
    return cfg


def accumulating_cfg(data: Path, work: Path):
    """Configures steps of two iterations; the signal comes between those of one."""
    cfg = config(data, work, **{'train_cfg.max_iters': 8})
    cfg.accumulate = 2
    return cfg


def seedless_cfg(data: Path, work: Path):
    """Configures a seed that is drawn, and that a resumed run takes from the checkpoint."""
    cfg = config(data, work)
    cfg.randomness.seed = None
    return cfg


@pytest.mark.parametrize(
    ('make', 'stopped', 'last'),
    [
        (workers_cfg, 5, 'iter_6.pth'),
        (seedless_cfg, 5, 'iter_6.pth'),
        (epochs_cfg, 5, 'epoch_3.pth'),
        (averaged_cfg, 3, 'iter_6.pth'),
        (accumulating_cfg, 6, 'iter_8.pth'),
    ],
    ids=['workers', 'no seed', 'epochs', 'averages', 'accumulation'],
)
def test_sigterm_saves_and_the_rest_is_as_if_nothing_had_been(
    data, calm, tmp_path, make, stopped, last
):
    rough, log = tmp_path / 'rough', tmp_path / 'log.txt'

    def stop() -> None:
        os.setpgrp()
        utils.sync_random_seed = lambda: 3  # the seed of the calm training
        run(make(data, rough), hook=Terminate())

    def go_on() -> None:
        utils.sync_random_seed = lambda: 4
        run(make(data, rough), resume=True)

    assert in_child(stop, log) == 143, log.read_text()[-3000:]
    path = rough / f'iter_{stopped}.pth'
    assert f'stopped by SIGTERM after iteration {stopped}: {path} is saved' in log.read_text()
    assert (rough / 'last_checkpoint').read_text() == str(path)
    assert in_child(go_on, log) == 0, log.read_text()[-3000:]
    if make not in (workers_cfg, seedless_cfg):  # which end with other weights than the others
        calm = trained(make(data, tmp_path / 'calm'))
    assert_same(calm / last, rough / last)


def test_runs_without_the_mechanism_would_differ(data, calm, tmp_path):
    """The comparison above can fail: other numbers for dropout give other weights."""
    work = trained(config(data, tmp_path / 'off', **{'default_hooks.step_seed': None}))
    with pytest.raises(AssertionError):
        assert_same(calm / 'iter_6.pth', work / 'iter_6.pth')


def test_a_second_sigterm_ends_at_once(data, tmp_path):
    log = tmp_path / 'log.txt'

    class Slow(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 1:
                (tmp_path / 'there').touch()
                time.sleep(30)

    child = fork(lambda: run(config(data, tmp_path / 'w'), hook=Slow()), log)
    end = time.monotonic() + 60
    while not (tmp_path / 'there').exists():
        assert time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.05)
    os.kill(child, signal.SIGTERM)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)  # the launcher's, of the same event
    time.sleep(1.2)
    assert os.waitpid(child, os.WNOHANG)[0] == 0
    start = time.monotonic()
    os.kill(child, signal.SIGTERM)
    assert wait(child) == 143
    assert time.monotonic() - start < 2
    assert not list((tmp_path / 'w').glob('*.pth'))
