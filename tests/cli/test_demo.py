"""segformer-plusplus demo: which model it takes, what it says, and how it ends."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from inference.saved import contents, save_model
from PIL import Image

from segformer_plusplus.cli.demo import KNOWN, find_model, find_samples, main
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.inference.opening import open_model

START = (
    'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);'
    'from segformer_plusplus.cli.main import main; sys.exit(main(sys.argv[1:]))'
)


def test_without_a_model(hub, segmentation, tmp_path, monkeypatch, capsys):
    """It says how to get one: by a training, or from the Hub."""
    pytest.importorskip('gradio')
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    error = capsys.readouterr().err
    assert 'make demo-seg' in error and f'{KNOWN} is neither a path here nor a model of' in error
    assert main([str(segmentation[0])]) == 2
    assert f'CONFIG {segmentation[0]} needs a CHECKPOINT' in capsys.readouterr().err


def test_a_known_model(hub, tmp_path, monkeypatch):
    pytest.importorskip('transformers')
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / 'saved')
    hub.add(KNOWN, contents(tmp_path / 'saved'))
    cfg, weights = find_model(None, None)
    assert cfg.pretrained_model.name.startswith(f'{KNOWN}@')
    assert len(open_model(cfg, weights).dataset_meta['classes']) == 5
    assert find_model(str(tmp_path / 'saved'), None)[1] == str(tmp_path / 'saved')


def test_the_latest_demo_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(['new', 'old', 'unfinished']):
        folder = Path('work_dirs/demo-seg/train', name)
        folder.mkdir(parents=True)
        (folder / 'config.py').write_text(f'name = {name!r}')
        (folder / 'weights.pth').symlink_to('iter_600.pth')
        if name != 'unfinished':
            (folder / 'iter_600.pth').touch()
            os.utime(folder / 'iter_600.pth', (1000 - age, 1000 - age))
    new = 'work_dirs/demo-seg/train/new'
    cfg, weights = find_model(None, None)
    assert cfg.name == 'new' and weights == f'{new}/weights.pth'
    assert find_model(f'{new}/config.py', 'b.pth')[1] == 'b.pth'


def test_samples(tmp_path):
    with pytest.raises(SegformerPlusPlusError, match='there is no such folder'):
        find_samples(tmp_path / 'nothing')
    for name in ('b.txt', '.hidden.png', 'film.mp4'):
        (tmp_path / name).touch()
    with pytest.raises(SegformerPlusPlusError, match='holds no image'):
        find_samples(tmp_path)
    (tmp_path / 'town').mkdir()
    for name in ('z.JPG', 'town/a.png'):
        Image.new('RGB', (8, 8)).save(tmp_path / name)
    (tmp_path / os.fsdecode(b'\xff.png')).touch()  # JSON, and so the page, could not say it
    expected = {'town/a.png': tmp_path / 'town/a.png', 'z.JPG': tmp_path / 'z.JPG'}
    expected[r'\udcff.png'] = tmp_path / os.fsdecode(b'\xff.png')
    assert find_samples(tmp_path) == expected


def test_without_gradio(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert main(['config.py', 'weights.pth']) == 2
    assert "pip install 'segformer-plusplus[demo]'" in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [['--port', '0'], ['--port', '70000'], ['--max-pixels', '0']])
def test_numbers_that_cannot_be(arguments, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and arguments[0] in error


@pytest.mark.parametrize('host', ['127.0.0.1', '0.0.0.0'])
def test_the_network_may_reach_it_after_a_warning(segmentation, monkeypatch, capfd, host):
    pytest.importorskip('gradio')
    served = []
    monkeypatch.setattr('segformer_plusplus.demo.serving.wait', lambda page: None)
    monkeypatch.setattr(
        'segformer_plusplus.demo.serving.serve',
        lambda page, *settings: served.append(settings) or 'http://here',
    )
    assert main([*map(str, segmentation), '--host', host, '--port', '7', '--open']) == 0
    out, error = capfd.readouterr()
    assert served == [(host, 7, True)] and out.endswith('http://here (Ctrl-C ends it)\n')
    assert ('it asks for no password' in out + error) == (host == '0.0.0.0')


@contextlib.contextmanager
def ending(process):
    """Whatever fails meanwhile must not wait for a page that nobody ends."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.parametrize('end', [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_ctrl_c(segmentation, tmp_path, end):
    httpx = pytest.importorskip('httpx')
    pytest.importorskip('gradio')
    pixels = np.random.default_rng().integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'sample.png')
    command = [sys.executable, '-u', '-c', START, 'demo', *map(str, segmentation)]
    command += ['--samples', str(tmp_path), '--max-pixels', '4321']
    uploads = tmp_path / 'tmp'
    uploads.mkdir()
    environment = dict(os.environ, TMPDIR=str(uploads), http_proxy='http://127.0.0.1:9')
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    with subprocess.Popen(command, **pipes) as process, ending(process):
        assert process.stdout is not None
        said = ''
        while '(Ctrl-C ends it)' not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        address = re.search(r'http://\S+', said)
        assert address is not None
        files = dict(files=('a.png', b'x'))
        answer = httpx.get(address[0], timeout=60)
        upload = httpx.post(f'{address[0]}gradio_api/upload', files=files, timeout=60)
        private = [path for path in uploads.iterdir() if path.name.startswith('segformer')]
        modes = [path.stat().st_mode & 0o777 for path in private]
        assert not (uploads / 'gradio').exists()
        process.send_signal(end)
        rest, _ = process.communicate(timeout=30)
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers['content-security-policy']
    assert 'more than 4,321 pixels' in answer.text and 'sample.png' in answer.text
    assert process.returncode == 0 and 'Traceback' not in rest, rest
    assert modes == [0o700] and upload.json()[0].startswith(f'{private[0]}/')
    assert not private[0].exists()
