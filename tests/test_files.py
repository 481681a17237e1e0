"""Output files are whole or not there, and what is no file is not replaced by one."""

import json
import os
import threading

import pytest

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.files import check_writable, write_json, written_beside


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
    with pytest.raises(OSError), written_beside(tmp_path / 'x') as place:
        place.write_text('new')
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


def test_write_json(tmp_path):
    path = tmp_path / 'new' / 'metrics.json'
    write_json(path, {'a': float('nan'), 'b': (1, 2.5)})
    assert json.loads(path.read_text()) == {'a': None, 'b': [1, 2.5]}
    assert [p.name for p in path.parent.iterdir()] == ['metrics.json']
