"""Output files are whole or not there, and what is no file is not replaced by one."""

import json
import os
import subprocess
import sys
import threading

import pytest

from segformer_plusplus.errors import SegformerPlusPlusError, describe_error
from segformer_plusplus.files import check_writable, write_json, write_text, written_beside


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / 'x.png'
    path.write_text('old')
    with written_beside(path) as place:
        assert place.parent == tmp_path and place.suffix == '.png'
        place.write_text('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'
    with pytest.raises(OSError, match='full'), written_beside(path) as place:
        place.write_text('half')
        raise OSError('full')
    assert path.read_text() == 'new'
    assert os.listdir(tmp_path) == ['x.png']


@pytest.mark.parametrize('mask, mode', [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_file(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_text(tmp_path / 'new', 'x')
        (tmp_path / 'old').touch()
        (tmp_path / 'old').chmod(0o640)
        write_text(tmp_path / 'old', 'x')
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ('new', 'old')] == [mode, 0o640]


def test_the_file_beside_is_new_and_its_name_not_known_before(tmp_path, monkeypatch):
    """A link that waits under its name would lead the writer to another file."""
    victim = tmp_path / 'victim'
    victim.write_text('mine')
    with written_beside(tmp_path / 'a.png') as one, written_beside(tmp_path / 'a.png') as two:
        assert one != two and one.is_file() and not one.is_symlink()
    monkeypatch.setattr('secrets.token_hex', lambda _: 'foreseen')
    with written_beside(tmp_path / 'b.png') as place:
        name = place.name
    for kind in (os.symlink, os.link):
        kind(victim, tmp_path / name)
        with pytest.raises(FileExistsError), written_beside(tmp_path / 'b.png') as place:
            place.write_text('theirs')
        (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / 'made')
    with pytest.raises(FileExistsError), written_beside(tmp_path / 'b.png') as place:
        place.write_text('theirs')
    assert victim.read_text() == 'mine' and not (tmp_path / 'made').exists()
    (tmp_path / name).unlink()
    (tmp_path / 'link.png').symlink_to(victim)
    write_text(tmp_path / 'link.png', 'new')
    assert victim.read_text() == 'mine' and (tmp_path / 'link.png').read_text() == 'new'


def test_the_longest_name(tmp_path):
    path = tmp_path / f'{"n" * 251}.txt'
    write_text(path, 'x')
    assert path.read_text() == 'x'


@pytest.mark.parametrize('kind', ['/dev/full', 'file', 'a source'])
def test_a_full_disk_is_named(tmp_path, kind):
    path = tmp_path / 'x' if kind != '/dev/full' else kind
    with pytest.raises(OSError) as info, written_beside(path) as place:
        if kind == 'a source':  # what fails beside the writing keeps its own name
            (tmp_path / 'source').read_text()
        if kind == 'file':
            raise OSError(28, 'No space left on device')
        place.write_text('x' * 100_000)
    expected = 'No space left on device' if kind != 'a source' else 'No such file or directory'
    named = tmp_path / 'source' if kind == 'a source' else path
    assert describe_error(info.value) == f'{expected}: {named}'
    assert not list(tmp_path.iterdir())


def test_a_pipe_stays_a_pipe(tmp_path):
    """As /dev/null has to, which a rename would replace for the whole machine."""
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_json(pipe, {'a': 1})
    reader.join(timeout=30)
    assert read == ['{\n  "a": 1\n}\n'] and pipe.is_fifo()


def test_a_folder_is_an_error(tmp_path):
    (tmp_path / 'x').mkdir()
    with pytest.raises(OSError) as info, written_beside(tmp_path / 'x') as place:
        place.write_text('new')
    assert describe_error(info.value) == f'Is a directory: {tmp_path}/x'
    assert os.listdir(tmp_path) == ['x']


def test_what_may_be_written_is_known_before(tmp_path):
    (tmp_path / 'file').touch()
    for path in (tmp_path / 'file', tmp_path / 'new', tmp_path / 'a/b/new', '/dev/null'):
        check_writable(path)
    assert os.listdir(tmp_path) == ['file']
    for path, message in [
        (tmp_path, 'is a folder'),
        (tmp_path / 'file/new', f'{tmp_path}/file is no folder'),
        (tmp_path / 'file/a/new', f'{tmp_path}/file is no folder'),
    ]:
        with pytest.raises(SegformerPlusPlusError, match=message):
            check_writable(path)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SegformerPlusPlusError, match='is read-only'):
        check_writable(tmp_path / 'a/new')


def test_text_is_utf_8_whatever_the_locale(tmp_path):
    path = tmp_path / 'x.md'
    code = f"from segformer_plusplus.files import write_text; write_text({str(path)!r}, '\\xe9')"
    plain = dict(os.environ, LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')
    subprocess.run([sys.executable, '-c', code], env=plain, check=True)
    assert path.read_bytes() == b'\xc3\xa9'


def test_write_json(tmp_path):
    path = tmp_path / 'new' / 'metrics.json'
    write_json(path, {'a': float('nan'), 'b': (1, 2.5)})
    assert json.loads(path.read_text()) == {'a': None, 'b': [1, 2.5]}
    assert [p.name for p in path.parent.iterdir()] == ['metrics.json']
