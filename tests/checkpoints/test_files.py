"""Files and folders of weights: what is read, and what is refused by name."""

import json
import sys

import pytest
import torch

from segformer_plusplus import CheckpointError, MissingDependencyError
from segformer_plusplus.checkpoints import (
    load_checkpoint_strictly,
    read_checkpoint,
    to_transformers,
    write_checkpoint,
    write_transformers_folder,
)
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
