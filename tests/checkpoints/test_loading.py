"""A checkpoint is loaded whole or not at all, and runs no code."""

import hashlib
import http.server
import pickle
import re
import threading
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model.weight_init import PretrainedInit

from segformer_plusplus import CheckpointError, MixVisionTransformerPlusPlus
from segformer_plusplus.checkpoints import load_checkpoint_strictly, read_checkpoint


@pytest.fixture
def model():
    torch.manual_seed(1)
    return MixVisionTransformerPlusPlus(arch='b0')


@pytest.fixture
def weights():
    torch.manual_seed(2)
    source = MixVisionTransformerPlusPlus(arch='b0')
    source.init_weights()
    return source.state_dict()


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
@pytest.mark.parametrize('strategy', ['none', 'hq'])
def test_init_cfg_really_loads(tmp_path, weights, wrap, prefix, strategy):
    path = save(tmp_path, wrap(weights))
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix=prefix)
    model = MixVisionTransformerPlusPlus(arch='b0', token_merging=strategy, init_cfg=init_cfg)
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key])


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
def test_pretrained_among_other_initialisations_is_strict_and_last(tmp_path, weights, kind):
    path = save(tmp_path, weights)
    entries = [dict(type=kind, checkpoint=str(path)), dict(type='Constant', layer='Conv2d', val=9)]
    model = MixVisionTransformerPlusPlus(arch='b0', init_cfg=entries)
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key])
    save(tmp_path, {'foreign': torch.ones(1)})
    with pytest.raises(CheckpointError, match='keys missing'):
        MixVisionTransformerPlusPlus(arch='b0', init_cfg=entries).init_weights()


def test_pretrained_is_loaded_by_a_parent_too(tmp_path, weights):
    from mmengine.model import BaseModule

    class Parent(BaseModule):
        def __init__(self):
            super().__init__()
            self.backbone = MixVisionTransformerPlusPlus(
                arch='b0', pretrained=str(save(tmp_path, weights))
            )

    parent = Parent()
    parent.init_weights()
    for key, value in parent.backbone.state_dict().items():
        assert torch.equal(value, weights[key])


def drop(weights):
    return {k: v for k, v in weights.items() if k != 'layers.0.2.bias'}


@pytest.mark.parametrize(
    'change, words',
    [
        (drop, ['1 keys missing', 'layers.0.2.bias']),
        (lambda w: w | {'head.weight': torch.ones(2)}, ['does not have', 'head.weight']),
        (lambda w: {f'backbone.{k}': v for k, v in w.items()}, ["prefix='backbone'"]),
        (lambda w: {'epoch': 3}, ['no state dict', 'epoch']),
        (lambda w: [1, 2], ['list', 'dict']),
    ],
)
def test_what_does_not_fit(tmp_path, model, weights, change, words):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    path = save(tmp_path, change(weights))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint_strictly(model, path)
    message = str(error.value)
    assert '\n' not in message
    for word in (path.name, *words):
        assert word in message
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_another_arch(tmp_path, model):
    path = save(tmp_path, MixVisionTransformerPlusPlus(arch='b1').state_dict())
    with pytest.raises(CheckpointError, match=r'another shape.*\(64, 3, 7, 7\) in the file.*\(32,'):
        load_checkpoint_strictly(model, path)


def test_missing_prefix_and_missing_file(tmp_path, model, weights):
    path = save(tmp_path, weights)
    with pytest.raises(CheckpointError, match="no key below prefix='encoder'"):
        load_checkpoint_strictly(model, path, prefix='encoder')
    with pytest.raises(CheckpointError, match='nowhere.pth does not exist'):
        load_checkpoint_strictly(model, tmp_path / 'nowhere.pth')


def test_a_misspelt_init_cfg(tmp_path):
    model = MixVisionTransformerPlusPlus(
        arch='b0', init_cfg=dict(type='Pretrained', checkpoint='a.pth', prefx='backbone')
    )
    with pytest.raises(ValueError, match='prefx'):
        model.init_weights()


@pytest.mark.parametrize('share', [0.0, 0.1, 0.9])
def test_cut_short(tmp_path, model, weights, share):
    path = save(tmp_path, weights)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match='weights.pth cannot be read'):
        load_checkpoint_strictly(model, path)


class _Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), 'w'))


@pytest.mark.parametrize('legacy', [False, True])
def test_no_code_of_the_file_is_run(tmp_path, model, legacy):
    victim = tmp_path / 'victim'
    path = tmp_path / 'weights.pth'
    if legacy:
        path.write_bytes(pickle.dumps(dict(state_dict=_Attack(victim))))
    else:
        torch.save(dict(state_dict=_Attack(victim)), path)
    expected = 'operand' if legacy else r'GLOBAL (_?io|builtins)\.open'
    with pytest.raises(CheckpointError, match=f'weights.pth cannot be read safely.*{expected}'):
        load_checkpoint_strictly(model, path)
    assert not victim.exists()


def test_getattr_is_admitted_for_history_buffers_alone(tmp_path):
    class Sneaky:
        def __reduce__(self):
            return (getattr, (dict, 'fromkeys'))

    path = save(tmp_path, dict(state_dict={}, extra=Sneaky()))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


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


@pytest.fixture
def server(tmp_path):
    root = tmp_path / 'server'
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield root, f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()


def test_download(tmp_path, server, model, weights, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    root, address = server
    path = save(root, weights, 'mit.pth')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path.rename(root / f'mit-{digest}.pth')
    load_checkpoint_strictly(model, f'{address}/mit-{digest}.pth')
    assert torch.equal(model.state_dict()['layers.0.2.weight'], weights['layers.0.2.weight'])

    (root / f'mit-{digest}.pth').rename(root / 'mit-00000000.pth')
    with pytest.raises(CheckpointError, match='mit-00000000.pth cannot be read.*hash'):
        load_checkpoint_strictly(model, f'{address}/mit-00000000.pth')
    with pytest.raises(CheckpointError, match='nothing.pth cannot be read.*404'):
        load_checkpoint_strictly(model, f'{address}/nothing.pth')


@pytest.mark.parametrize('name', ['checkpoint-160000.pth', 'best-acc.pth', 'mit-b.pth'])
def test_a_name_that_only_looks_as_if_it_had_a_hash(tmp_path, server, monkeypatch, name):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    root, address = server
    save(root, dict(number=torch.tensor(3)), name)
    assert read_checkpoint(f'{address}/{name}')['number'] == 3


def test_a_broken_download_is_not_kept(tmp_path, server, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    root, address = server
    (root / 'mit.pth').write_bytes(b'half a file')
    with pytest.raises(CheckpointError, match='mit.pth cannot be read'):
        read_checkpoint(f'{address}/mit.pth')
    save(root, dict(number=torch.tensor(4)), 'mit.pth')
    assert read_checkpoint(f'{address}/mit.pth')['number'] == 4


def test_two_addresses_with_one_file_name(tmp_path, server, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    root, address = server
    for number in (1, 2):
        (root / str(number)).mkdir()
        save(root / str(number), dict(number=torch.tensor(number)), 'best.pth')
    numbers = [read_checkpoint(f'{address}/{n}/best.pth')['number'].item() for n in (1, 2)]
    assert numbers == [1, 2]
