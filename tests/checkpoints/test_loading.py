"""A checkpoint is loaded whole or not at all; what runs code is in test_files.py and the fuzz."""

import hashlib
import http.server
import re
import threading
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit

from segformer_plusplus import CheckpointError, MixVisionTransformerPlusPlus
from segformer_plusplus.checkpoints import load_checkpoint_strictly, read_checkpoint
from segformer_plusplus.training.runner import StrictRunner

from .models import DEPTHS, HEADS, randomise, same

SIZES = dict(embed_dims=8, num_heads=HEADS, num_layers=DEPTHS)


def build(**settings):
    return MixVisionTransformerPlusPlus(**{**SIZES, **settings})


@pytest.fixture
def model():
    return randomise(build(), seed=1)


@pytest.fixture(scope='module')
def weights():
    return randomise(build(), seed=2).state_dict()


def save(tmp_path, content, name='weights.pth'):
    path = tmp_path / name
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    'wrap, prefix',
    [
        (lambda w: w, ''),
        (lambda w: dict(state_dict=w, meta=dict(epoch=3)), ''),
        (lambda w: dict(state_dict={f'module.{k}': v for k, v in w.items()}), ''),
        (lambda w: {f'backbone.{k}': v for k, v in w.items()} | {'x': torch.ones(1)}, 'backbone'),
        (lambda w: {f'backbone.{k}': v for k, v in w.items()}, 'backbone.'),
    ],
)
def test_init_cfg_really_loads(tmp_path, weights, wrap, prefix):
    path = save(tmp_path, wrap(weights))
    model = build(init_cfg=dict(type='Pretrained', checkpoint=str(path), prefix=prefix))
    model.init_weights()
    same(model.state_dict(), weights)


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
def test_pretrained_among_other_initialisations_is_strict_and_last(tmp_path, weights, kind):
    path = save(tmp_path, weights)
    entries = [dict(type=kind, checkpoint=str(path)), dict(type='Constant', layer='Conv2d', val=9)]
    model = build(init_cfg=entries)
    model.init_weights()
    same(model.state_dict(), weights)
    save(tmp_path, {'foreign': torch.ones(1)})
    with pytest.raises(CheckpointError, match='keys missing'):
        build(init_cfg=entries).init_weights()


def test_pretrained_is_loaded_by_a_parent_too(tmp_path, weights):
    parent = BaseModule()
    parent.backbone = build(pretrained=str(save(tmp_path, weights)))
    parent.init_weights()
    same(parent.backbone.state_dict(), weights)


def drop(weights):
    return {k: v for k, v in weights.items() if k != 'layers.0.2.bias'}


@pytest.mark.parametrize(
    'change, prefix, words',
    [
        (drop, '', ['1 keys missing', 'layers.0.2.bias']),
        (lambda w: w | {'head.weight': torch.ones(2)}, '', ['does not have', 'head.weight']),
        (lambda w: {f'backbone.{k}': v for k, v in w.items()}, '', ["prefix='backbone'"]),
        (lambda w: {'epoch': 3}, '', ['no state dict', 'epoch']),
        (lambda w: [1, 2], '', ['list', 'dict']),
        (lambda w: w, 'encoder', ["no key below prefix='encoder'"]),
        (lambda w: build(embed_dims=16).state_dict(), '',
         ['of another shape', '(16, 3, 7, 7) in the file and (8, 3, 7, 7) in the model']),
    ],
)  # fmt: skip
def test_what_does_not_fit(tmp_path, model, weights, change, prefix, words):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    path = save(tmp_path, change(weights))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint_strictly(model, path, prefix=prefix)
    message = str(error.value)
    assert '\n' not in message
    for word in (path.name, *words):
        assert word in message
    same(model.state_dict(), before)


@pytest.mark.parametrize('place', ['cpu', 'meta'])
def test_tensors_go_where_they_are_wanted(tmp_path, weights, place):
    path = save(tmp_path, dict(state_dict=weights))
    with torch.device('meta'):
        model = build()
    read = load_checkpoint_strictly(model, path, map_location=place)['state_dict']
    assert {str(tensor.device) for tensor in read.values()} == {place}


def test_a_missing_file_and_a_misspelt_init_cfg(tmp_path, model):
    with pytest.raises(CheckpointError, match='nowhere.pth does not exist'):
        load_checkpoint_strictly(model, tmp_path / 'nowhere.pth')
    init_cfg = dict(type='Pretrained', checkpoint='a.pth', prefx='backbone')
    with pytest.raises(ValueError, match='prefx'):
        build(init_cfg=init_cfg).init_weights()


def test_message_hub_is_read(tmp_path, weights):
    hub = MessageHub.get_instance('test_message_hub_is_read')
    hub.update_scalar('train/loss', 0.5)
    path = save(tmp_path, dict(state_dict=weights, message_hub=hub.state_dict()))
    content = read_checkpoint(path)
    assert content['message_hub']['log_scalars']['train/loss'].current() == 0.5


@pytest.mark.parametrize('module', ['numpy.core', 'numpy._core'])
def test_numbers_of_either_numpy_are_read(tmp_path, module):
    """NumPy 1 and 2 write the same numbers under different names."""
    written, renamed = save(tmp_path, dict(value=np.float64(2.5))), tmp_path / 'renamed.pth'
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(renamed, 'w') as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename.endswith('data.pkl'):
                assert b'.multiarray\nscalar' in data
                data = re.sub(rb'numpy\._?core\.', f'{module}.'.encode(), data)
            target.writestr(item.filename, data)
    assert read_checkpoint(renamed)['value'] == 2.5


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    """A folder, and the address under which its files are."""
    root = tmp_path_factory.mktemp('server')

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=[0.01], daemon=True).start()
        yield root, f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()


@pytest.fixture
def remote(tmp_path, server, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    return server


def test_download_verifies_the_hash(remote, model, weights):
    root, address = remote
    path = save(root, weights, 'mit.pth')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path.rename(root / f'mit-{digest}.pth')
    load_checkpoint_strictly(model, f'{address}/mit-{digest}.pth')
    same(model.state_dict(), weights)
    (root / f'mit-{digest}.pth').rename(root / 'mit-00000000.pth')
    load_checkpoint_strictly(model, f'{address}/mit-{digest}.pth')  # from the cache
    for name, words in (
        ('mit-00000000.pth', 'read.*hash'),
        ('nothing.pth', 'downloaded: HTTP Error 404: File not found$'),
    ):
        with pytest.raises(CheckpointError, match=f'{name} cannot be {words}'):
            load_checkpoint_strictly(model, f'{address}/{name}')
    with pytest.raises(CheckpointError, match=r'mit.pth cannot be downloaded: .*refused$'):
        load_checkpoint_strictly(model, 'http://127.0.0.1:9/mit.pth')


@pytest.mark.parametrize('name', ['checkpoint-160000.pth', 'best-acc.pth', 'mit-b.pth'])
def test_a_name_that_only_looks_as_if_it_had_a_hash(remote, name):
    root, address = remote
    save(root, dict(number=torch.tensor(3)), name)
    assert read_checkpoint(f'{address}/{name}')['number'] == 3


def test_nobody_answers(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(CheckpointError, match='x.pth cannot be downloaded: Connection refused'):
        read_checkpoint('http://127.0.0.1:9/x.pth')


def test_a_broken_download_is_not_kept(remote):
    root, address = remote
    (root / 'mit.pth').write_bytes(b'half a file')
    with pytest.raises(CheckpointError, match='mit.pth cannot be read'):
        read_checkpoint(f'{address}/mit.pth')
    save(root, dict(number=torch.tensor(4)), 'mit.pth')
    assert read_checkpoint(f'{address}/mit.pth')['number'] == 4


class Payload:
    """Harmless code in a pickle: it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.mark.parametrize('use', ['read', 'load', 'init_cfg', 'runner', 'cached'])
def test_code_in_a_download_is_not_run(remote, model, weights, tmp_path, use):
    root, address = remote
    trace, source = tmp_path / 'trace', f'{address}/evil.pth'
    save(root, dict(state_dict=weights, extra=Payload(trace)), 'evil.pth')
    if use == 'cached':
        cache = tmp_path / 'cache' / 'hub' / 'checkpoints'
        cache.mkdir(parents=True)
        digest = hashlib.sha256(source.encode()).hexdigest()[:12]
        (root / 'evil.pth').rename(cache / f'{digest}_evil.pth')
    calls = dict(
        read=lambda: read_checkpoint(source),
        cached=lambda: read_checkpoint(source),
        load=lambda: load_checkpoint_strictly(model, source),
        init_cfg=build(init_cfg=dict(type='Pretrained', checkpoint=source)).init_weights,
        runner=lambda: StrictRunner(
            model, work_dir=str(tmp_path / 'work'), cfg=dict(strict_load=True)
        ).load_checkpoint(source),
    )
    with pytest.raises(
        CheckpointError, match=f'{source} cannot be read safely: it asks for .*open'
    ):
        calls[use]()
    assert not trace.exists()
    if use == 'read':
        assert 'state_dict' in read_checkpoint(source, unsafe=True) and trace.exists()


@pytest.mark.parametrize('place', ['a file', 'full'])
def test_a_cache_that_cannot_be_written_is_named(remote, weights, tmp_path, place, monkeypatch):
    root, address = remote
    save(root, weights, 'mit.pth')
    reason = 'Not a directory'
    if place == 'a file':
        (tmp_path / 'cache').touch()
    else:
        reason = 'No space left on device'

        def full(*_):
            raise OSError(28, reason)

        monkeypatch.setattr('segformer_plusplus.checkpoints.loading.download_url_to_file', full)
    expected = (
        f'mit.pth cannot be kept in {tmp_path}/cache/hub/checkpoints: {reason}; set TORCH_HOME'
    )
    with pytest.raises(CheckpointError, match=expected) as info:
        read_checkpoint(f'{address}/mit.pth')
    assert 'damaged' not in str(info.value)


def test_two_addresses_with_one_file_name(remote):
    root, address = remote
    for number in (1, 2):
        (root / str(number)).mkdir()
        save(root / str(number), dict(number=torch.tensor(number)), 'best.pth')
    numbers = [read_checkpoint(f'{address}/{n}/best.pth')['number'].item() for n in (1, 2)]
    assert numbers == [1, 2]
