"""Files and folders of weights: what is read, and what is refused by name."""

import io
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer

from segformer_plusplus import CheckpointError, MissingDependencyError, SegformerPlusPlusError
from segformer_plusplus.checkpoints import (
    load_checkpoint_strictly,
    read_checkpoint,
    to_transformers,
    write_checkpoint,
    write_transformers_folder,
)
from segformer_plusplus.safe_globals import _history_buffer_method
from segformer_plusplus.training.runner import StrictRunner

from .models import Segmentor, difference, from_transformers_library, images, randomise, same

safetensors = pytest.importorskip('safetensors.torch')


@pytest.fixture
def state():
    return randomise(Segmentor()).state_dict()


@pytest.fixture
def folder(tmp_path, state):
    """A folder with weights in two files, and its index."""
    files = to_transformers(state, file_names=True)
    keys = sorted(files)
    shards = {'model-00001.safetensors': keys[::2], 'model-00002.safetensors': keys[1::2]}
    for name, names in shards.items():
        safetensors.save_file({k: files[k].clone() for k in names}, tmp_path / name)
    places = {key: name for name, names in shards.items() for key in names}
    index = tmp_path / 'model.safetensors.index.json'
    index.write_text(json.dumps(dict(metadata={}, weight_map=places)))
    return tmp_path


def change_index(folder, change):
    index = folder / 'model.safetensors.index.json'
    content = json.loads(index.read_text())
    change(content)
    index.write_text(json.dumps(content))


def test_sharded(folder, state):
    ours = Segmentor()
    for source in (folder, folder / 'model.safetensors.index.json'):
        load_checkpoint_strictly(randomise(ours, seed=1), source)
        same(ours.state_dict(), state)


@pytest.mark.parametrize(
    'place',
    ['../x.safetensors', '/tmp/x.safetensors', 'a/../x.safetensors', '..\\x.safetensors',
     'C:x.safetensors', 'x.bin', '..', '', 7, None, ['x.safetensors'], 'x\0.safetensors'],
)  # fmt: skip
def test_an_index_that_points_elsewhere(folder, place):
    outside = folder.parent / 'x.safetensors'
    outside.write_bytes((folder / 'model-00001.safetensors').read_bytes())

    def change(content):
        first = next(iter(content['weight_map']))
        content['weight_map'][first] = place

    change_index(folder, change)
    with pytest.raises(CheckpointError, match='files beside it that end in .safetensors; nothing'):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda c: c.clear(), "no 'weight_map'"),
        (lambda c: c.update(weight_map={}), "no 'weight_map'"),
        (lambda c: c.update(weight_map=[1]), "no 'weight_map'"),
        (lambda c: c['weight_map'].popitem(), '1 keys are in one of them only'),
        (lambda c: c['weight_map'].update(x='model-00001.safetensors'), 'only: x'),
        (lambda c: c['weight_map'].update(x='gone.safetensors'), 'gone.safetensors does not exist'),
        (None, 'index.json cannot be read as JSON'),
    ],
)
def test_an_index_that_does_not_fit(folder, change, words):
    if change is None:
        (folder / 'model.safetensors.index.json').write_text('{')
    else:
        change_index(folder, change)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(folder)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(
        CheckpointError, match='no weights: looked for model.safeten.*found nothing'
    ):
        read_checkpoint(tmp_path)
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(CheckpointError, match='found config.json'):
        read_checkpoint(tmp_path)


def test_a_pointer_of_git_lfs(tmp_path):
    path = tmp_path / 'a.pth'
    path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n')
    with pytest.raises(CheckpointError, match='git lfs pull'):
        read_checkpoint(path)


class Payload:
    """Harmless code in a pickle: it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'shard'])
def test_code_is_run_only_when_asked_for(tmp_path, kind):
    trace = tmp_path / 'trace'
    content = dict(state_dict=dict(a=torch.ones(1)), extra=Payload(trace))
    source = path = tmp_path / 'pytorch_model.bin'
    if kind == 'legacy':
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(content, path)
    if kind == 'shard':
        places = dict(weight_map=dict.fromkeys(content, path.name))
        source = tmp_path / 'pytorch_model.bin.index.json'
        source.write_text(json.dumps(places))
    with pytest.raises(CheckpointError, match='cannot be read safely: .*open.*--unsafe'):
        read_checkpoint(source)
    assert not trace.exists()
    assert torch.equal(read_checkpoint(source, unsafe=True)['state_dict']['a'], torch.ones(1))
    assert trace.exists()


class Calls:
    """A call in a pickle."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def tar_of(path, content):
    """PyTorch's oldest format, from before its pickles."""
    with tarfile.open(path, 'w') as archive:
        for name, value in (('storages', 0), ('tensors', 0), ('pickle', content)):
            data = pickle.dumps(value, 2)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


WRITERS = {
    'zip': torch.save,
    'legacy': partial(torch.save, _use_new_zipfile_serialization=False),
    'protocol 4': partial(torch.save, pickle_protocol=4),
    'legacy of protocol 4': partial(
        torch.save, pickle_protocol=4, _use_new_zipfile_serialization=False
    ),
    'plain pickle': lambda content, path: path.write_bytes(pickle.dumps(content)),
    'pickle of protocol 0': lambda content, path: path.write_bytes(pickle.dumps(content, 0)),
}
ADVICE = 'weights_only', 'WeightsUnpickler', 'torch.load', 'safe_globals', 'operand', 'damaged'


@pytest.mark.parametrize('writer', WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    'call, culprit',
    [
        (Calls(os.system, 'true'), 'os.system'),
        (Calls(sys.exit, 3), 'sys.exit'),
        (Calls(subprocess.Popen, ['true']), 'subprocess.Popen'),
        (Calls(eval, '1'), 'eval'),
        (Calls(getattr, Counter, 'most_common'), 'getattr|most_common'),
        (Path('x'), 'pathlib.*Path'),
        (torch.nn.Linear(1, 1), 'torch.nn.modules.linear.Linear'),
    ],
)
def test_a_refusal_names_what_is_asked_for(tmp_path, recwarn, writer, call, culprit):
    path = tmp_path / 'a.pth'
    writer(dict(state_dict=dict(a=1), extra=call), path)
    recwarn.clear()
    with pytest.raises(
        CheckpointError, match=f'^checkpoint {path} .*it asks for .*({culprit}).*--unsafe'
    ) as info:
        read_checkpoint(path)
    assert not any(word in str(info.value) for word in ADVICE) and '\n' not in str(info.value)
    assert not recwarn.list


def test_formats_that_are_programs(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / 'script.pth'))
    tar_of(tmp_path / 'tar.pth', Payload(tmp_path / 'trace'))
    for name, words in (('script.pth', 'TorchScript, a program'), ('tar.pth', 'a tar archive')):
        with pytest.raises(
            CheckpointError, match=f'{name} cannot be read safely: .*{words}'
        ) as info:
            read_checkpoint(tmp_path / name)
        assert not any(word in str(info.value) for word in ADVICE)
    assert not (tmp_path / 'trace').exists()


def test_weights_in_parts_of_fsdp(tmp_path):
    from torch.distributed.tensor import DTensor, Shard, init_device_mesh

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    try:
        part = DTensor.from_local(torch.ones(2), init_device_mesh('cpu', (1,)), [Shard(0)])
        torch.save(dict(state_dict=dict(a=part)), tmp_path / 'a.pth')
    finally:
        torch.distributed.destroy_process_group()
    code = (
        'import sys; from segformer_plusplus.checkpoints import read_checkpoint\n'
        'try: read_checkpoint(sys.argv[1])\nexcept ValueError as error: print(error)'
    )
    command = [sys.executable, '-c', code, str(tmp_path / 'a.pth')]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert 'torch.distributed' in said and 'save them whole' in said and 'weights_only' not in said


@pytest.mark.parametrize('content', [b'<!DOCTYPE html><html>', b'hello\n', b'', b'\x80\x04'])
def test_what_is_no_checkpoint_is_not_called_dangerous(tmp_path, content):
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match='a.pth cannot be read: it is damaged') as info:
        read_checkpoint(tmp_path / 'a.pth')
    assert '--unsafe' not in str(info.value) and 'weights_only' not in str(info.value)


@pytest.mark.parametrize(
    'owner, name',
    [(Counter, 'most_common'), (torch.Tensor, 'register_hook'), (torch.nn.Parameter, '__repr__'),
     (HistoryBuffer, '__init__'), (HistoryBuffer, '_set_default_statistics'),
     (HistoryBuffer, 'nothing'), (HistoryBuffer(), 'mean'), (np.ndarray, 'tofile')],
)  # fmt: skip
def test_methods_of_other_classes_are_not_looked_up(tmp_path, owner, name):
    """A HistoryBuffer's own statistics are all that a checkpoint gets."""
    with pytest.raises(pickle.UnpicklingError, match=f"it asks for '{name}' of"):
        _history_buffer_method(owner, name)
    if owner is Counter:
        torch.save(dict(a=Calls(getattr, owner, name)), tmp_path / 'a.pth')
        with pytest.raises(
            CheckpointError, match="cannot be read safely: it asks for 'most_common'"
        ):
            read_checkpoint(tmp_path / 'a.pth')
    assert _history_buffer_method(HistoryBuffer, 'mean') is HistoryBuffer.mean


def test_without_safetensors(tmp_path, state, monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    (tmp_path / 'a.safetensors').write_bytes(b'anything')
    for use in (read_checkpoint, lambda path: write_checkpoint(path, state)):
        with pytest.raises(MissingDependencyError, match=r"pip install 'segformer-plusplus\[hf\]'"):
            use(tmp_path / 'a.safetensors')
    assert (tmp_path / 'a.safetensors').read_bytes() == b'anything'


@pytest.mark.parametrize('name', ['a.safetensors', 'a.pth'])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, name):
    path = tmp_path / name
    write_checkpoint(path, dict(a=torch.ones(1)))
    old = path.read_bytes()
    broken = torch.ones(1).to_sparse() if name == 'a.safetensors' else (x for x in 'ab')
    with pytest.raises((RuntimeError, TypeError, ValueError, NotImplementedError)):
        write_checkpoint(path, dict(a=broken))
    assert path.read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize('name', ['a.safetensors', 'a.pth'])
def test_a_full_disk(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'old')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(SegformerPlusPlusError, match=f'{name} cannot be written: is the disk'):
            write_checkpoint(path, dict(a=torch.ones(10_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b'old' and [each.name for each in tmp_path.iterdir()] == [name]


def test_what_cannot_be_written(tmp_path, state):
    with pytest.raises(CheckpointError, match=r'a.npz what to write; end it with one of .safe'):
        write_checkpoint(tmp_path / 'a.npz', state)
    with pytest.raises(CheckpointError, match="tensors only, not 'meta'"):
        write_checkpoint(tmp_path / 'a.safetensors', dict(meta={}))
    with pytest.raises(CheckpointError, match='do not have the names of Transformers'):
        write_transformers_folder(tmp_path / 'new', state)
    with pytest.raises(CheckpointError, match=r'stages are \[8, 16, 40, 64\] wide.*heads'):
        write_transformers_folder(tmp_path / 'new', to_transformers(state))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_transformers_reads(tmp_path):
    transformers = pytest.importorskip('transformers')
    ours = randomise(
        Segmentor(eps=1e-5, widths=[32, 64, 160, 256], depths=[1, 2, 1, 1], channels=16)
    )
    files = to_transformers(ours.state_dict(), file_names=True)
    write_transformers_folder(tmp_path, files)
    write_transformers_folder(tmp_path, files)  # the same again takes its place
    model, info = transformers.SegformerForSemanticSegmentation.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info[key] for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    with torch.inference_mode():
        assert difference(model(images()).logits, ours(images())) < 1e-5
    (tmp_path / 'pytorch_model.bin').touch()
    with pytest.raises(CheckpointError, match='already holds other weights, pytorch_model.bin'):
        write_transformers_folder(tmp_path, files)


def test_the_runner_takes_them(tmp_path):
    from_transformers_library(seed=3).save_pretrained(tmp_path)
    ours, expected = Segmentor(), Segmentor()
    runner = StrictRunner(ours, work_dir=str(tmp_path / 'work'), cfg=dict(strict_load=True))
    runner.load_checkpoint(str(tmp_path))
    load_checkpoint_strictly(expected, tmp_path)
    same(ours.state_dict(), expected.state_dict())
