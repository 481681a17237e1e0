"""Checkpoints are whole or not there; a damaged one is never resumed."""

from __future__ import annotations

import errno
import resource
import shutil
import signal
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from tiny_training import config, in_child, run, validated

from segformer_plusplus.errors import CheckpointError
from segformer_plusplus.training.checkpoint_files import UNFINISHED, find_resumable, saving


def beside(path: Path) -> Path:
    """Names the place where a file is written first."""
    return path.with_name(f'.{path.name}{UNFINISHED}')


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
        assert place == beside(path) and place.name == '.iter_2.pth.unfinished'
        place.write_bytes(b'new')
    assert path.read_bytes() == b'new' and not beside(path).exists()


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
    assert not beside(work / 'iter_4.pth').exists()
    assert find_resumable(work) == str(work / 'iter_2.pth')


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
    shutil.copy(work / 'iter_2.pth', beside(place / 'iter_2.pth'))
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
