"""Output files are whole or not there, and what is no file is not replaced by one."""

import os
import threading

import pytest

from segformer_plusplus.engine.cli import write_json
from segformer_plusplus.files import written_beside


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
