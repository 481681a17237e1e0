"""Fingerprints, and a folder that is ours, whole and used by one call at a time."""

import fcntl
import os
import resource

import pytest

from segformer_plusplus.errors import SegformerPlusPlusError
from tools.paper_tables import state
from tools.paper_tables.state import MARKER, Store, changed, hash_file, read_config, with_options


def test_a_new_folder_becomes_ours_and_stays_so(tmp_path):
    store = Store(tmp_path / 'a/b')
    for _ in range(2):
        with store.claim('real'):
            assert store.read(MARKER) == {'data': 'real'}


def test_a_folder_killed_before_its_marker_is_taken_over(tmp_path):
    (tmp_path / '.lock').touch()
    with Store(tmp_path).claim('real'):
        pass


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').write_text('x')
    with pytest.raises(SegformerPlusPlusError, match='holds files but no reproduction.json'):
        with Store(tmp_path).claim('real'):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_real_and_drawn_data_are_not_mixed(tmp_path):
    with Store(tmp_path).claim('real'):
        pass
    with pytest.raises(SegformerPlusPlusError, match='holds results on real data'):
        Store(tmp_path).check('synthetic')


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').touch()
    for folder in (tmp_path / 'file', tmp_path / 'file/out'):
        with pytest.raises(SegformerPlusPlusError, match='no folder|cannot write'):
            with Store(folder).claim('real'):
                pass


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    """A limit on the size of files stands in for a full disk."""
    store = Store(tmp_path)
    store.write('row.json', {'old': 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(SegformerPlusPlusError, match=f'cannot write {tmp_path}/row.json'):
            store.write('row.json', {'new': 'x' * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.read('row.json') == {'old': 1}
    assert [path.name for path in tmp_path.iterdir()] == ['row.json']


def test_a_folder_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(state, '_PATIENCE', 0.3)
    descriptor = os.open(tmp_path / '.lock', os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(SegformerPlusPlusError, match='in use by another call'):
        with Store(tmp_path).claim('real'):
            pass
    os.close(descriptor)
    with Store(tmp_path).claim('real'):
        pass


@pytest.mark.parametrize('content', [b'', b'{"status"', b'[1]', b'\xff\xfe'])
def test_a_damaged_state_is_no_state(tmp_path, content):
    (tmp_path / 'row.json').write_bytes(content)
    assert Store(tmp_path).read('row.json') is None


def test_fingerprints_of_files_follow_their_content(tmp_path):
    (tmp_path / 'a').write_text('one')
    (tmp_path / 'b').write_text('one')
    assert hash_file(tmp_path / 'a') == hash_file(tmp_path / 'b')
    (tmp_path / 'a').write_text('other')
    assert hash_file(tmp_path / 'a') != hash_file(tmp_path / 'b')


def test_what_has_changed_is_named():
    assert changed({'config': 1, 'code': 2}, {'config': 1, 'code': 3}) == ['code']
    assert changed(None, {'config': 1}) == ['config']


def test_options_are_read_as_the_tools_read_them(tmp_path):
    (tmp_path / 'config.py').write_text('a = dict(b=1, c=(1, 2))\nd = [dict(e=1)]')
    content = read_config(tmp_path / 'config.py')
    changed = with_options(content, ['a.b=[32,64]', 'a.c=(96,128)', 'd.0.e=None'])
    assert changed == {'a': {'b': [32, 64], 'c': (96, 128)}, 'd': [{'e': None}]}
    assert with_options(content, []) == content == {'a': {'b': 1, 'c': (1, 2)}, 'd': [{'e': 1}]}


@pytest.mark.parametrize('content', ['a = (', 'a = 1 / 0', "_base_ = 'nowhere.py'", None])
def test_a_config_that_cannot_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / 'config.py').write_text(content)
    with pytest.raises(SegformerPlusPlusError, match='cannot read config'):
        read_config(tmp_path / 'config.py')


def test_an_option_that_does_not_fit():
    with pytest.raises(SegformerPlusPlusError, match='options do not fit'):
        with_options({'a': [1]}, ['a.5.b=1'])
