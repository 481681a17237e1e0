"""Files that are damaged, or no checkpoints, or meant to do harm: an error, and no code is run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, strategies as st
from mmengine.logging import MessageHub

from segformer_plusplus import CheckpointError, MixVisionTransformerPlusPlus
from segformer_plusplus.checkpoints import load_checkpoint_strictly, read_checkpoint
from segformer_plusplus.errors import SegformerPlusPlusError

from .cases import cases

safetensors = pytest.importorskip('safetensors.torch')

TINY = dict(embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])

HARMFUL = (
    'ctypes.', 'os.exec', 'os.fork', 'os.mkdir', 'os.posix_spawn', 'os.remove', 'os.rename',
    'os.system', 'pickle.find_class', 'shutil.', 'socket.connect', 'subprocess.Popen',
)  # fmt: skip
"""Events of the interpreter that reading a checkpoint never leads to."""

events: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if events is None:
        return
    # torch looks for an old kind of archive with the help of an empty folder
    if event in ('os.mkdir', 'shutil.rmtree') and _is_temporary(arguments[0]):
        return
    writes = event == 'open' and isinstance(arguments[1], str) and set(arguments[1]) & set('wax+')
    if writes or event.startswith(HARMFUL):
        events.append(f'{event} {arguments}')


def _is_temporary(path: Any) -> bool:
    folder, name = os.path.split(os.fspath(path))
    return folder == tempfile.gettempdir() and name.startswith('tmp')


sys.addaudithook(_watch)  # for the life of the process: it is idle without `watched`


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Nothing in here may write, start, delete or unpickle by the plain way."""
    global events
    events = []
    try:
        yield
        assert not events
    finally:
        events = None


def test_the_watch_sees_what_a_plain_unpickler_does(tmp_path):
    with pytest.raises(AssertionError, match='open'), watched():
        pickle.loads(attack(open, str(tmp_path / 'victim'), 'w'))
    with pytest.raises(AssertionError, match='os.system'), watched():
        os.system('true')


def model(seed: int = 0) -> MixVisionTransformerPlusPlus:
    torch.manual_seed(seed)
    return MixVisionTransformerPlusPlus(**TINY)


def hub() -> dict[str, Any]:
    found = MessageHub.get_instance('fuzz')
    found.update_scalar('train/loss', 0.5)
    found.update_info('best', np.float64(0.7))
    return found.state_dict()


def saved(content: Any, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **settings)
    return buffer.getvalue()


@cache
def files() -> dict[str, bytes]:
    """A good file of every kind."""
    state = model().state_dict()
    run = dict(
        state_dict=state, message_hub=hub(), meta=dict(iter=3, seed=np.int64(4), cfg='a = 1')
    )
    return {
        'zip.pth': saved(run),
        'legacy.pth': saved(run, _use_new_zipfile_serialization=False),
        'bare.bin': saved(state),
        'x.safetensors': safetensors.save(state),
    }


KINDS = ['zip.pth', 'legacy.pth', 'bare.bin', 'x.safetensors']
HEADS = {'zip.pth': 12000, 'legacy.pth': 12000, 'bare.bin': 12000, 'x.safetensors': 9000}


def read_or_refuse(path: Path) -> dict[str, Any] | None:
    """What is in it; None after an error of ours on one line, which names the file."""
    with watched():
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            message = str(error)
            assert '\n' not in message
            assert path.name in message
            return None


def load_or_refuse(path: Path) -> bool:
    """Whether it was loaded; the model is whole either way."""
    target = model(1)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    try:
        with watched():
            load_checkpoint_strictly(target, path)
    except SegformerPlusPlusError as error:
        assert isinstance(error, CheckpointError)
        assert path.name in str(error) and '\n' not in str(error)
        for key, value in target.state_dict().items():
            assert torch.equal(value, before[key]), key
        return False
    return True


def test_the_files_that_are_damaged_are_good(tmp_path):
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
        assert load_or_refuse(tmp_path / name)


@st.composite
def damaged(draw: Any) -> tuple[str, bytes, bool]:
    """A kind of file, its damaged bytes, and whether anybody could notice."""
    kind = draw(st.sampled_from(KINDS))
    data = bytearray(files()[kind])
    how = draw(st.sampled_from(['cut', 'flip', 'flip in the head', 'replace']))
    if how == 'cut':
        return kind, bytes(data[: int(len(data) * draw(st.floats(0, 1, exclude_max=True)))]), True
    if how == 'replace':
        start = int(len(data) * draw(st.floats(0, 1)))
        old = data[start : start + draw(st.integers(1, 4000))]
        new = st.sampled_from([b'', bytes(old * 2), bytes(len(old))]) | st.binary(max_size=60)
        data[start : start + len(old)] = draw(new)
        return kind, bytes(data), False
    within = len(data) if how == 'flip' else min(len(data), HEADS[kind])
    for _ in range(draw(st.integers(1, 8))):
        data[draw(st.integers(0, within - 1))] ^= 1 << draw(st.integers(0, 7))
    return kind, bytes(data), False


@cases(5)
@given(damaged())
def test_a_damaged_file(tmp_path, damage):
    """Bits may also flip in a weight, where nothing can notice: then it is loaded."""
    kind, data, noticed = damage
    path = tmp_path / kind
    path.write_bytes(data)
    content, loaded = read_or_refuse(path), load_or_refuse(path)
    assert not noticed or (content is None and not loaded)


def zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred() -> bytes:
    """What torch takes for one of its first files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        for name in ('storages', 'tensors', 'pickle'):
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


def array_of_objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}]), allow_pickle=True)
    return buffer.getvalue()


OTHER = {
    'torchscript': scripted,
    'tar': tarred,
    'zip': lambda: zipped({'a.txt': b'a'}),
    'zip of a number': lambda: zipped({'a/data.pkl': pickle.dumps(7, 2), 'a/version': b'3\n'}),
    'zip with a storage': lambda: zipped({'data.pkl': pickle.dumps({'a': 1}, 2), '../x': b'x'}),
    'npy with objects': array_of_objects,
    'png': lambda: b'\x89PNG\r\n\x1a\n',
    'html': lambda: b'<html>404</html>',
    'empty': lambda: b'',
    'list': lambda: saved([1]),
    'module': lambda: saved(model()),
    'pickle': lambda: pickle.dumps(np.arange(3)),
}


@pytest.mark.parametrize('name', KINDS)
@pytest.mark.parametrize('make', OTHER.values(), ids=OTHER)
def test_other_files(tmp_path, name, make):
    path = tmp_path / name
    path.write_bytes(make())
    assert read_or_refuse(path) is None
    assert not load_or_refuse(path)


class Call:
    """Pickled as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def attack(function: Any, *arguments: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(dict(state_dict=Call(function, *arguments)), protocol)


FUNCTIONS = [
    ('builtins', 'eval'), ('builtins', 'exec'), ('builtins', 'open'), ('builtins', '__import__'),
    ('builtins', 'getattr'), ('builtins', 'setattr'), ('os', 'system'), ('posix', 'system'),
    ('os', 'remove'), ('subprocess', 'Popen'), ('shutil', 'rmtree'), ('pickle', 'loads'),
    ('torch', 'load'), ('torch.hub', 'load'), ('torch.serialization', 'load'), ('numpy', 'load'),
    ('numpy', 'fromfile'), ('numpy', 'memmap'), ('numpy.core.multiarray', 'fromfile'),
    ('numpy._core.multiarray', 'fromfile'), ('functools', 'partial'), ('operator', 'methodcaller'),
    ('mmengine.logging.history_buffer', 'HistoryBuffer.register_statistics'),
    ('mmengine.logging.history_buffer', 'HistoryBuffer.__init__.__globals__'),
    ('mmengine.config', 'Config.fromfile'), ('mmengine.fileio', 'put_text'),
    ('torch.jit', 'load'), ('torch', 'from_file'), ('torch._utils', '_import_dotted_name'),
    ('segformer_plusplus.checkpoints.loading', 'read_checkpoint'), ('codecs', 'open'),
]  # fmt: skip


def text(value: str) -> bytes:
    data = value.encode('utf-8', 'surrogatepass')
    return b'X' + struct.pack('<I', len(data)) + data


def harmful(module: str, name: str, arguments: list[Any], how: str) -> bytes:
    """A pickle that looks a function up and calls it, as opcodes."""
    if how == 'stack global':
        function = text(module) + text(name) + b'\x93'
    else:
        function = b'c' + f'{module}\n{name}\n'.encode()
    packed = (text(a) if isinstance(a, str) else b'J' + struct.pack('<i', a) for a in arguments)
    values = b''.join(packed)
    arguments_tuple = b'(' + values + b't'
    call = {
        'reduce': function + arguments_tuple + b'R',
        'stack global': function + arguments_tuple + b'R',
        'newobj': function + arguments_tuple + b'\x81',
        'build': function + b')R' + b'}' + text('x') + arguments_tuple + b's' + b'b',
        'inst': b'(' + values + b'i' + f'{module}\n{name}\n'.encode(),
        'obj': b'(' + function + values + b'o',
    }[how]
    return b'\x80\x02}' + text('state_dict') + call + b's.'


# the function that builds methods of a HistoryBuffer is admitted under the name of getattr
GETATTR = b'cbuiltins\ngetattr\n'
BUFFER = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'


@cases(3)
@given(
    function=st.sampled_from(FUNCTIONS),
    arguments=st.lists(
        st.one_of(st.sampled_from(['VICTIM', 'w', "open('VICTIM', 'w')"]), st.integers(0, 9)),
        max_size=3,
    ),
    how=st.sampled_from(['reduce', 'stack global', 'newobj', 'build', 'inst', 'obj']),
    place=st.sampled_from(['zip', 'plain', 'legacy', 'message hub']),
)
def test_no_function_is_called(tmp_path, function, arguments, how, place):
    victim = tmp_path / 'victim'
    names = [a.replace('VICTIM', str(victim)) if isinstance(a, str) else a for a in arguments]
    program = harmful(*function, names, how)
    path = tmp_path / 'evil.pth'
    if place == 'zip':
        data = zipped({'a/data.pkl': program, 'a/version': b'3\n', 'a/byteorder': b'little'})
    elif place == 'legacy':
        magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
        data = magic + pickle.dumps(dict(little_endian=True), 2) + program
    elif place == 'message hub':
        data = swap_pickle(files()['zip.pth'], lambda old: old[:-1] + program[2:])
    else:
        data = program
    path.write_bytes(data)
    with watched():
        with pytest.raises(CheckpointError, match='evil.pth'):
            read_checkpoint(path)
    assert not victim.exists()


def swap_pickle(data: bytes, change: Any) -> bytes:
    """A zip of torch.save with another pickle in it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in entries if name.endswith('data.pkl'))
    entries[name] = change(entries[name])
    return zipped(entries)


methods = st.sampled_from(
    ['__init__', '__class__', '__globals__', '_statistics_methods', 'update', 'mean', 'data',
     '__subclasses__', 'register_statistics', 'x', 'statistics', '']
)  # fmt: skip
owners = st.sampled_from(
    [BUFFER, b'cnumpy\nndarray\n', b'cnumpy\ndtype\n', GETATTR, b'ccollections\nOrderedDict\n',
     b'ctorch\nTensor\n', b'}', b'N']
)  # fmt: skip


@cases(2)
@example(name='data', owner=BUFFER, call=False)  # a property
@example(name='__init__', owner=BUFFER, call=False)  # a private method
@given(name=st.one_of(methods, st.text(max_size=8)), owner=owners, call=st.booleans())
def test_the_admitted_getattr_gives_methods_of_history_buffers_alone(tmp_path, name, owner, call):
    """Whatever it gives away must be a plain method of that class, found by a public name."""
    found = GETATTR + b'(' + owner + text(name) + b'tR'
    program = b'\x80\x02}' + text('found') + found + (b')R' if call else b'') + b's.'
    path = tmp_path / 'hub.pth'
    path.write_bytes(zipped({'a/data.pkl': program, 'a/version': b'3\n', 'a/byteorder': b'little'}))
    content = read_or_refuse(path)
    if content is not None and not call:
        assert owner == BUFFER and not name.startswith('_')
        assert content['found'].__qualname__.startswith('HistoryBuffer.')


@cases(1)
@given(
    st.one_of(
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=6)),
            lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)),
            max_leaves=6,
        ),
        st.dictionaries(
            st.just('weight_map'),
            st.dictionaries(
                st.text(max_size=5),
                st.one_of(
                    st.text(max_size=9),
                    st.sampled_from(['a.safetensors', 'evil.bin', '../a.safetensors', '/etc/passwd',
                                     'a.safetensors\0', 'a.safetensors.index.json', '.', '..'])
                    | st.integers(),
                ),
                max_size=3,
            ),
            min_size=1,
        ),
    )
)  # fmt: skip
def test_any_index_of_shards(tmp_path, content):
    (tmp_path / 'evil.bin').write_bytes(attack(open, str(tmp_path / 'victim'), 'w'))
    (tmp_path / 'a.safetensors').write_bytes(safetensors.save({'x': torch.ones(1)}))
    path = tmp_path / 'model.safetensors.index.json'
    path.write_text(json.dumps(content))
    with watched():
        try:
            assert read_checkpoint(path).keys() == {'x'}
        except CheckpointError as error:
            assert '\n' not in str(error)
    assert not (tmp_path / 'victim').exists()
