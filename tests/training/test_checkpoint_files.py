"""Checkpoints are whole or not there; a damaged one is never resumed."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import secrets
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny_training import config, fork, in_child, run, validated, wait

from segformer_plusplus.cli import train
from segformer_plusplus.cli.main import main
from segformer_plusplus.errors import CheckpointError, SegformerPlusPlusError, describe_error
from segformer_plusplus.training import checkpoint_files
from segformer_plusplus.training.checkpoint_files import (
    UNFINISHED,
    find_resumable,
    iterations,
    latest_named,
    lock_work_dir,
    saving,
)
from segformer_plusplus.training.runner import StrictRunner


@pytest.fixture
def work(calm, tmp_path) -> Path:
    """Makes a work dir with checkpoints after 2, 4 and 6 iterations."""
    for number in (2, 4, 6):
        shutil.copy(calm / f'iter_{number}.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_6.pth'))
    return tmp_path


def flip_a_bit(path: Path) -> None:
    """Flips a bit in the middle of a tensor, where PyTorch does not look at checksums."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path: Path) -> None:
    path.write_bytes(b'')


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / 'iter_2.pth'
    path.write_bytes(b'old')
    with pytest.raises(CheckpointError, match='cannot save .*iter_2.pth: No space left'):
        with saving(path) as place:
            place.write_bytes(b'ne')
            raise OSError(errno.ENOSPC, 'No space left on device')
    assert [p.name for p in tmp_path.iterdir()] == ['iter_2.pth'] and path.read_bytes() == b'old'
    with saving(path) as place:
        assert place.name.startswith('.iter_2.pth.') and place.name.endswith(UNFINISHED)
        place.write_bytes(b'new')
    assert [p.name for p in tmp_path.iterdir()] == ['iter_2.pth'] and path.read_bytes() == b'new'


def test_the_old_one_is_there_until_the_new_one_takes_its_name(tmp_path, monkeypatch):
    path = tmp_path / 'iter_2.pth'
    path.write_bytes(b'old')

    def refuse(place, target):
        assert (Path(place).read_bytes(), Path(target).read_bytes()) == (b'new', b'old')
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(os, 'replace', refuse)
    with pytest.raises(CheckpointError, match='cannot save'), saving(path) as place:
        place.write_bytes(b'new')
    assert [p.name for p in tmp_path.iterdir()] == ['iter_2.pth'] and path.read_bytes() == b'old'


def test_a_link_that_lies_there_is_not_followed(tmp_path, monkeypatch):
    path, other = tmp_path / 'iter_2.pth', tmp_path / 'other'
    other.write_bytes(b'precious')
    # the name of earlier versions, and the one of today if somebody guessed it
    monkeypatch.setattr(secrets, 'token_hex', lambda size: 'guessed')
    for middle in ('', 'guessed.'):
        path.with_name(f'.iter_2.pth.{middle}unfinished').symlink_to(other)
    with pytest.raises(CheckpointError, match='File exists'), saving(path) as place:
        place.write_bytes(b'new')
    monkeypatch.undo()
    with saving(path) as first, saving(path) as second:
        assert first != second
        first.write_bytes(b'1')
        second.write_bytes(b'2')
    assert other.read_bytes() == b'precious' and path.read_bytes() == b'1'


def test_interrupted_while_it_is_written(tmp_path):
    with pytest.raises(KeyboardInterrupt), saving(tmp_path / 'iter_2.pth'):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def train_with_the_tool(cfg, folder: Path) -> int:
    """Runs the command in this process and returns its exit code."""
    cfg.dump(str(folder / 'tiny.py'))
    return main(['train', str(folder / 'tiny.py'), '--work-dir', str(folder / 'work')])


def until(path: Path, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert path.exists()


def test_two_trainings_in_one_work_dir(data, tmp_path, monkeypatch, capsys):
    cfg = config(data, tmp_path / 'work', **{'train_cfg.max_iters': 10**6})
    cfg.train_dataloader.num_workers = 1
    first = fork(lambda: train_with_the_tool(cfg, tmp_path), tmp_path / 'log.txt')
    try:
        until(tmp_path / 'work/iter_2.pth')
        monkeypatch.setattr(checkpoint_files, '_ORPHANS', 0.1)
        assert train_with_the_tool(cfg, tmp_path) == 2
        said = capsys.readouterr().err
        assert f'{tmp_path}/work is in use by a training: process {first} on' in said
        assert '--work-dir' in said and 'Traceback' not in said
        with pytest.raises(SegformerPlusPlusError, match='in use'):  # also to look for what is left
            StrictRunner.from_cfg(cfg).resume_latest()
    finally:
        os.kill(first, signal.SIGKILL)
        wait(first)
    monkeypatch.undo()  # its worker lives a little longer
    cfg.train_cfg.max_iters = 2
    for _ in range(2):
        run(cfg, resume=True)


def test_a_test_may_run_beside_a_training(data, calm, tmp_path):
    cfg = config(data, tmp_path)
    cfg.load_from = str(calm / 'iter_2.pth')
    with lock_work_dir(tmp_path):
        StrictRunner.from_cfg(cfg).test()


def test_where_there_are_no_locks_a_training_runs(data, tmp_path, monkeypatch, capfd):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, 'flock', no_locks)
    run(config(data, tmp_path, **{'train_cfg.max_iters': 2}))
    assert (tmp_path / 'iter_2.pth').is_file()
    captured = capfd.readouterr()
    assert 'cannot be locked' in captured.out + captured.err


@pytest.mark.parametrize('saved', [True, False])
def test_ctrl_c_is_one_line(data, tmp_path, saved):
    changes = {'train_cfg.max_iters': 10**6}
    if not saved:
        changes['default_hooks.checkpoint.interval'] = 10**6
    cfg = config(data, tmp_path / 'work', **changes)
    log = tmp_path / 'log.txt'

    def call():
        sys.exit(train_with_the_tool(cfg, tmp_path))

    child = fork(call, log)
    until(tmp_path / 'work' / ('last_checkpoint' if saved else '.lock.owner'))
    time.sleep(0 if saved else 1)
    os.kill(child, signal.SIGINT)
    assert wait(child) == 130
    *_, last = log.read_text().splitlines()
    if saved:
        latest = latest_named(tmp_path / 'work')
        assert last == f'interrupted; {latest} is saved: --resume goes on from there'
        assert iterations(latest) >= 2
    else:
        assert last == 'interrupted; no checkpoint was saved'
    assert 'Traceback' not in log.read_text()


@pytest.mark.parametrize('rank', [0, 1])
def test_ctrl_c_in_a_library_that_makes_an_error_of_it(tmp_path, monkeypatch, capsys, rank):
    def formatted(cfg):
        try:
            raise KeyboardInterrupt
        except BaseException as error:
            raise SyntaxError('Failed to format the config file') from error

    monkeypatch.setattr(StrictRunner, 'from_cfg', formatted)
    monkeypatch.setattr(train, 'is_main_process', lambda: rank == 0)
    assert train._train(Config(dict(work_dir=str(tmp_path))), latest=False) == 130
    said = capsys.readouterr().err
    assert said == ('' if rank else 'interrupted; no checkpoint was saved\n')


class NoMoreRoom(Hook):
    """Keeps files below 100 KB after the third iteration, as a full disk would."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == 3:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))


def test_a_full_disk(data, tmp_path):
    work, log = tmp_path / 'work', tmp_path / 'log.txt'
    assert in_child(lambda: run(config(data, work), hook=NoMoreRoom()), log) == 99
    said = log.read_text()
    assert f'CheckpointError: cannot save {work}/iter_4.pth: File too large' in said
    assert 'the checkpoints before it are whole' in said
    assert sorted(path.name for path in work.glob('*.pth')) == ['iter_2.pth']
    assert not list(work.glob(f'.*{UNFINISHED}'))
    assert find_resumable(work) == str(work / 'iter_2.pth')


@pytest.mark.parametrize('method', ['train', 'dump_config'])
@pytest.mark.parametrize('named', [None, '/elsewhere/log'])
def test_a_full_disk_that_names_no_file(data, tmp_path, monkeypatch, named, method):
    def full(self):
        raise OSError(errno.ENOSPC, 'No space left on device', named)

    monkeypatch.setattr(Runner, method, full)
    with pytest.raises(OSError, match='No space') as error:
        StrictRunner.from_cfg(config(data, tmp_path)).train()
    said = describe_error(error.value)
    assert said.startswith(f'No space left on device: {named or tmp_path}')


def test_the_old_one_goes_when_the_new_one_is_there(data, tmp_path, monkeypatch):
    there: list[list[str]] = []
    put = LocalBackend.put

    def watched(self, content, path):
        there.append(sorted(p.name for p in tmp_path.glob('*.pth')))
        put(self, content, path)

    monkeypatch.setattr(LocalBackend, 'put', watched)
    changes = {'default_hooks.checkpoint.max_keep_ckpts': 1}
    cfg = validated(config(data, tmp_path, **changes))
    cfg.train_cfg.val_interval = 2
    cfg.default_hooks.checkpoint.update(save_best='mIoU', rule='greater')
    run(cfg)
    # while the file of iteration 4 is written that of iteration 2 is there, and so with the best
    assert all(any(n.startswith('iter_') for n in names) for names in there[1:])
    later = [names for names in there if 'iter_4.pth' in names or 'iter_6.pth' in names]
    assert all(any(n.startswith('best_') for n in names) for names in later)
    assert [p.name for p in tmp_path.glob('iter_*.pth')] == ['iter_6.pth']
    assert len(list(tmp_path.glob('best_*.pth'))) == 1


@pytest.mark.parametrize('damage', [flip_a_bit, cut_short, empty])
def test_a_damaged_checkpoint_is_named_and_passed_over(work, capfd, damage):
    damage(work / 'iter_6.pth')
    assert find_resumable(work) == str(work / 'iter_4.pth')
    said = ''.join(capfd.readouterr())
    assert f'not resumed: {work}/iter_6.pth is damaged' in said
    assert f'going on from {work}/iter_4.pth instead' in said


def test_when_none_is_left_that_is_an_error(work):
    for path in work.glob('*.pth'):
        flip_a_bit(path)
    with pytest.raises(CheckpointError, match='no checkpoint is whole') as error:
        find_resumable(work)
    assert all(f'iter_{n}.pth is damaged' in str(error.value) for n in (2, 4, 6))


def test_last_checkpoint_is_a_hint_only(work, calm):
    (work / 'last_checkpoint').write_text(str(work / 'iter_4.pth'))
    assert find_resumable(work) == str(work / 'iter_4.pth')
    # the third is still there, in the folder that this one was copied from
    for text in (
        '',
        '/elsewhere/iter_6.pth',
        f'{calm}/iter_6.pth',
        'iter_8.pth',
    ):
        (work / 'last_checkpoint').write_text(text)
        assert find_resumable(work) == str(work / 'iter_6.pth')
    (work / 'last_checkpoint').unlink()
    assert find_resumable(work) == str(work / 'iter_6.pth')


def test_what_was_never_finished_is_no_checkpoint(work, tmp_path_factory):
    place = tmp_path_factory.mktemp('other')
    for middle in ('', 'a.', 'b.'):
        shutil.copy(work / 'iter_2.pth', place / f'.iter_2.pth.{middle}unfinished')
    assert find_resumable(place) is None
    assert list(place.iterdir()) == []
    (place / 'last_checkpoint').write_text(str(place / 'iter_2.pth'))
    with pytest.raises(CheckpointError, match='iter_2.pth is missing'):
        find_resumable(place)


def test_the_best_one_is_not_resumed(work):
    for path in list(work.glob('iter_*.pth')):
        path.rename(work / f'best_mIoU_{path.name}')
    (work / 'last_checkpoint').unlink()
    assert find_resumable(work) is None
