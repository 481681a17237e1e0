"""The HTTP service of examples/http: every request gets an answer, and each mask is Segmenter's."""

import importlib.util
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('fastapi')
pytest.importorskip('httpx')
pytest.importorskip('mmseg')

import httpx
import uvicorn
from inference.tiny import SEGMENTATION, write_model

from segformer_plusplus.inference import Segmenter

FOLDER = Path(__file__).parents[1] / 'examples' / 'http'
RNG = np.random.default_rng()
TYPE = {'Content-Type': 'image/png'}
GATE = """
import time
from pathlib import Path

from mmcv.transforms import TRANSFORMS, BaseTransform


@TRANSFORMS.register_module()
class Gate(BaseTransform):
    def transform(self, results):
        while Path(__file__).with_name('closed').exists():
            time.sleep(0.01)
        return results
"""


@pytest.fixture(scope='module')
def segmentation(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny segmentor that finds several classes in a picture, and others in another one."""
    config, checkpoint = write_model(tmp_path_factory.mktemp('model'), SEGMENTATION)
    segmenter = Segmenter(config, checkpoint, keep_logits=True)
    logits = torch.cat([segmenter(picture()).seg_logits.data.flatten(1) for _ in range(4)], dim=1)
    saved = torch.load(checkpoint)
    saved['state_dict']['decode_head.conv_seg.bias'] -= logits.mean(dim=1)
    torch.save(saved, checkpoint)
    return config, checkpoint


def load(name):
    spec = importlib.util.spec_from_file_location(f'http_{name}', FOLDER / f'{name}.py')
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


serve = load('serve')


class Gated(Segmenter):
    """Predicts nothing while its gate is closed, and tells which pictures it was given."""

    def stream(self, inputs, progress=False):
        self.given += inputs
        assert self.gate.wait(30)
        if self.broken:
            raise self.broken
        yield from super().stream(inputs, progress)


@dataclass
class Running:
    """A service in a thread of its own."""

    segmenter: Gated
    port: int

    def post(self, content, headers=TYPE):
        url = f'http://127.0.0.1:{self.port}/masks'
        return httpx.post(url, content=content, headers=headers, timeout=30)

    def health(self):
        return httpx.get(f'http://127.0.0.1:{self.port}/health', timeout=30).json()

    def wait_for(self, **expected):
        wait_until(lambda: expected.items() <= self.health().items(), self.health)

    @contextmanager
    def connected(self, *parts):
        """A connection over which these parts of a request were sent."""
        with socket.create_connection(('127.0.0.1', self.port), timeout=30) as connection:
            connection.sendall(b'POST /masks HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n')
            for part in parts:
                connection.sendall(part)
            yield connection


def wait_until(condition: Callable[[], bool], shown=lambda: '', seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, shown()
        time.sleep(0.01)


@pytest.fixture
def running(segmentation):
    servers = []

    def run(batch_size=1, **limits) -> Running:
        segmenter = Gated(*segmentation, batch_size=batch_size)
        segmenter.gate, segmenter.given, segmenter.broken = Event(), [], None
        segmenter.gate.set()
        service = serve.Service(segmenter, serve.Limits(**limits))
        config = uvicorn.Config(serve.make_app(service, 'tiny'), port=0, log_level='error')
        server = serve.Server(config, service)
        thread = Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread, segmenter))
        wait_until(lambda: server.started)
        return Running(segmenter, server.servers[0].sockets[0].getsockname()[1])

    yield run
    for server, thread, segmenter in servers:
        segmenter.gate.set()
        server.handle_exit(signal.SIGTERM, None)
        thread.join(30)
        assert not thread.is_alive()


def picture(kind='PNG', size=(48, 64)) -> bytes:
    stream = BytesIO()
    coarse = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(stream, kind)
    return stream.getvalue()


def labels_of(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    assert answer.headers['content-type'] == 'image/png'
    return np.asarray(Image.open(BytesIO(answer.content)))


@contextmanager
def callers(number: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(number) as pool:
        yield pool


@pytest.mark.parametrize('batch_size', [1, 4])
def test_each_of_twenty_callers_gets_what_segmenter_gives(
    running, segmentation, tmp_path, batch_size
):
    service = running(batch_size, queue=20)
    kinds, sizes = ('PNG', 'JPEG', 'WEBP'), ((48, 64), (64, 48), (33, 70))
    pictures = [picture(kinds[n % 3], sizes[n // 3 % 3]) for n in range(40)]
    service.segmenter.gate.clear()
    with callers(20) as pool:
        answers = pool.map(service.post, pictures)
        service.wait_for(waiting=20)
        service.segmenter.gate.set()
        answers = list(answers)
    segmenter = Segmenter(*segmentation)
    path, seen = tmp_path / 'picture', set()
    for sent, answer in zip(pictures, answers, strict=True):
        path.write_bytes(sent)
        expected = segmenter(path).pred_sem_seg.data[0].numpy()
        # of several pictures in one pass, rounding may decide between two labels
        assert (labels_of(answer) == expected).mean() >= (1 if batch_size == 1 else 0.98)
        assert len(np.unique(expected)) > 1
        seen.add(answer.content)
    assert len(seen) == len(pictures)
    image = Image.open(BytesIO(answers[0].content)).convert('RGB')
    np.testing.assert_array_equal(np.asarray(image), segmenter.palette[labels_of(answers[0])])
    report = service.health()
    assert report['answers'] == {'200': 40} and report['waiting'] == 0
    assert 0 < report['p50_ms'] <= report['p99_ms']
    assert report['batches'] == 40 if batch_size == 1 else 10 <= report['batches'] <= 20


@pytest.mark.parametrize(
    ('content', 'kind', 'status', 'words'),
    [
        (picture(), 'text/plain', 415, "'text/plain' is not taken; allowed are image/avif, "),
        (picture(), '', 415, "'' is not taken"),
        (b'', 'image/png', 422, 'image sent cannot be read: the file is empty'),
        (b'no image', 'image/jpeg', 422, 'image sent cannot be read: it is no image'),
        (b'%!PS-Adobe-3.0 EPSF-3.0\n', 'image/png', 422, 'it is EPS, which is not opened; allowed'),
        (picture(size=(400, 400))[:-9000], 'image/png', 422, 'image sent cannot be read: '),
        (picture(size=(401, 400)), 'image/png', 413, '401x400 pixels; at most 160000 are taken'),
        (picture(size=(400, 400)), 'image/png', 200, ''),
        (picture(size=(100, 1)), 'image/png', 422, 'image sent of 1x100 cannot be predicted: '),
        (bytes(300_001), 'image/png', 413, 'more than 300000 bytes'),
        (iter([bytes(1000)] * 301), 'image/png', 413, 'more than 300000 bytes'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_what_is_refused_says_why(running, content, kind, status, words):
    service = running(max_bytes=300_000, max_pixels=160_000)
    answer = service.post(content, {'Content-Type': kind})
    assert answer.status_code == status
    if status != 200:
        assert words in answer.json()['detail']
    assert labels_of(service.post(picture(), {'Content-Type': 'image/PNG; x=y'})).shape == (64, 48)


def test_other_methods_and_places(running):
    url = f'http://127.0.0.1:{running().port}'
    assert httpx.get(f'{url}/masks').status_code == 405
    assert httpx.post(f'{url}/health').status_code == 405
    assert httpx.get(f'{url}/docs').status_code == 404
    report = httpx.get(f'{url}/health').json()
    assert (report['model'], report['status'], report['p50_ms']) == ('tiny', 'ok', None)
    assert report['classes'] == ['road', 'car', 'sky', 'tree', 'house']


@pytest.mark.parametrize(
    'parts',
    [
        [b'Content-Length: 1000000000\r\n\r\n'],
        [b'Transfer-Encoding: chunked\r\n\r\n', *[b'3e8\r\n' + bytes(1000) + b'\r\n'] * 11],
    ],
)
def test_a_body_that_is_too_large_is_not_waited_for(running, parts):
    with running(max_bytes=10_000).connected(*parts) as connection:
        assert connection.recv(9999).startswith(b'HTTP/1.1 413 ')


def test_a_body_that_does_not_come(running):
    service = running(seconds=1)
    with service.connected(b'Content-Length: 9000\r\n\r\n', bytes(100)) as connection:
        service.wait_for(waiting=1)
        # in as many pieces as come, until the connection is closed
        answer = b''.join(iter(lambda: connection.recv(9999), b''))
        assert answer.startswith(b'HTTP/1.1 408 ')
    service.wait_for(waiting=0, answers={'408': 1})


def test_a_full_queue(running):
    service = running(queue=3)
    service.segmenter.gate.clear()
    with callers(3) as pool:
        answers = [pool.submit(service.post, picture()) for _ in range(3)]
        service.wait_for(waiting=3)
        refused = service.post(picture())
        assert refused.status_code == 503 and int(refused.headers['Retry-After']) >= 1
        assert 'has 3 requests already' in refused.json()['detail']
        service.segmenter.gate.set()
        assert [labels_of(answer.result()).shape for answer in answers] == [(64, 48)] * 3
    assert service.post(picture()).status_code == 200


@pytest.mark.parametrize('sent', ['half', 'whole'])
def test_a_caller_that_goes_away_costs_nothing(running, sent):
    service = running(queue=2)
    service.segmenter.gate.clear()
    first, second = picture(), picture()
    with callers(1) as pool:
        answer = pool.submit(service.post, first)
        wait_until(lambda: service.segmenter.given == [first])
        head = f'Content-Length: {len(second)}\r\n\r\n'.encode()
        content = second if sent == 'whole' else second[:100]
        with service.connected(head, content):
            service.wait_for(waiting=2)
        service.wait_for(waiting=1, answers={'499': 1})
        service.segmenter.gate.set()
        assert answer.result().status_code == 200
    assert service.post(third := picture()).status_code == 200
    assert service.segmenter.given == [first, third]


def test_a_damaged_picture_does_not_end_its_batch(running):
    service = running(batch_size=3)
    pictures = [picture(), picture(), picture(size=(400, 400))[:-9000], picture()]
    service.segmenter.gate.clear()
    with callers(4) as pool:
        answers = [pool.submit(service.post, pictures[0])]
        wait_until(lambda: len(service.segmenter.given) == 1)
        answers += [pool.submit(service.post, each) for each in pictures[1:]]
        service.wait_for(waiting=4)
        service.segmenter.gate.set()
        statuses = [answer.result().status_code for answer in answers]
    assert statuses == [200, 200, 422, 200] and service.health()['batches'] == 2


def test_a_model_that_cannot_predict(running):
    service = running()
    service.segmenter.broken = RuntimeError('no picture can be predicted')
    answer = service.post(picture())
    assert answer.status_code == 500 and 'no picture can be' in answer.json()['detail']
    service.segmenter.broken = None
    assert service.post(picture()).status_code == 200
    assert service.health()['answers'] == {'200': 1, '500': 1}


@pytest.fixture
def process(segmentation, tmp_path, monkeypatch):
    """The program itself, whose model waits while a file 'closed' is there."""
    (tmp_path / 'gate.py').write_text(GATE)
    text = SEGMENTATION.replace("['segformer_plusplus']", "['segformer_plusplus', 'gate']")
    text = text.replace("dict(type='Resize'", "dict(type='Gate'), dict(type='Resize'")
    (tmp_path / 'config.py').write_text(text)
    monkeypatch.setenv('PYTHONPATH', f'{tmp_path}:{FOLDER.parents[1]}')
    log = tmp_path / 'log.txt'
    command = [sys.executable, FOLDER / 'serve.py', tmp_path / 'config.py', segmentation[1]]
    options = ['--port', '0', '--token-merging', 'hq', '--queue', '21']
    with log.open('w') as stream:
        started = subprocess.Popen([*command, *options], stdout=stream, stderr=stream)
    started.log = log
    yield started
    started.kill()
    started.wait()


def test_what_was_accepted_before_sigterm_is_answered(process, segmentation, tmp_path):
    address = r'http://127\.0\.0\.1:(\d+)'
    wait_until(lambda: re.search(address, process.log.read_text()), process.log.read_text, 120)
    service = Running(None, int(re.search(address, process.log.read_text())[1]))
    (tmp_path / 'closed').touch()
    pictures = [picture() for _ in range(20)]
    with callers(20) as pool:
        answers = pool.map(service.post, pictures)
        service.wait_for(waiting=20, status='ok', model='config.py')
        process.send_signal(signal.SIGTERM)
        service.wait_for(waiting=20, status='stopping')
        health = httpx.get(f'http://127.0.0.1:{service.port}/health')
        refused = service.post(picture())
        assert (health.status_code, refused.status_code) == (503, 503)
        (tmp_path / 'closed').unlink()
        segmenter = Segmenter(*segmentation, token_merging='hq')
        for sent, answer in zip(pictures, answers, strict=True):
            expected = segmenter(sent).pred_sem_seg.data[0].numpy()
            np.testing.assert_array_equal(labels_of(answer), expected)
    assert process.wait(30) == 0, process.log.read_text()
    with pytest.raises(httpx.ConnectError):
        service.health()
