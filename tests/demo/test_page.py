"""The page in a real browser, as a person uses it, and that nothing is asked of other machines."""

import re
import shutil
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

httpx = pytest.importorskip('httpx', reason='it comes with Gradio')
gradio = pytest.importorskip('gradio', reason='the extra demo is not installed')
sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')

from segformer_plusplus.demo import Comparer, comparison  # noqa: E402
from segformer_plusplus.demo import page as page_module  # noqa: E402
from segformer_plusplus.demo.page import build_page  # noqa: E402
from segformer_plusplus.demo.serving import OnlyFromHere, is_local, serve  # noqa: E402
from segformer_plusplus.errors import SegformerPlusPlusError  # noqa: E402

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
MAX_PIXELS = 20_000

needs_browser = pytest.mark.skipif(
    BROWSER is None, reason=f'no browser: none of {", ".join(NAMES)} is installed'
)
expect = sync_api.expect


@pytest.fixture(scope='module')
def address(segmenter, tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp('samples')
    pixels = np.random.default_rng().integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / 'sample.tif')
    Image.fromarray(pixels.repeat(4, axis=0)).save(folder / 'large.png')
    samples = {name: folder / name for name in ('sample.tif', 'large.png')}
    page = build_page(Comparer(segmenter, MAX_PIXELS), 'tiny.py', samples)
    yield serve(page, '127.0.0.1', None, open_browser=False)
    page.close(verbose=False)


@pytest.fixture(scope='module')
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        # as root, and in a container, Chromium has no sandbox
        started = playwright.chromium.launch(executable_path=BROWSER, args=['--no-sandbox'])
        yield started
        started.close()


@pytest.fixture
def requested() -> list[str]:
    """Every address that the browser asked for."""
    return []


@pytest.fixture
def page(browser, address, requested) -> Iterator[sync_api.Page]:
    opened = browser.new_page(viewport=dict(width=1280, height=900))
    opened.on('request', lambda request: requested.append(request.url))
    opened.on('websocket', lambda socket: requested.append(socket.url))
    opened.goto(address)
    yield opened
    opened.close()


def choose(page: sync_api.Page, path: Path) -> None:
    """Upload an image and wait until it is there."""
    page.locator('input[type=file]').set_input_files(path)
    expect(page.get_by_role('img', name='The image to predict')).to_be_visible()


def choose_strategy(page: sync_api.Page, preset: str) -> None:
    page.get_by_role('combobox', name='Strategy').click()
    page.get_by_role('option', name=preset, exact=True).click()


def expect_error(page: sync_api.Page, text: str) -> None:
    """One message says so; it is closed again."""
    toast = page.get_by_test_id('toast-body')
    expect(toast).to_contain_text(text)
    expect(page.get_by_test_id('toast-text')).to_have_count(1)
    toast.get_by_role('button', name='Close', exact=True).click()
    expect(toast).to_have_count(0)


def shown(page: sync_api.Page, name: str, folder: Path) -> np.ndarray:
    """The pixels of a picture on the page."""
    source = page.get_by_role('img', name=name).get_attribute('src')
    path = folder / 'shown.png'
    path.write_bytes(page.request.get(source).body())
    return np.asarray(Image.open(path).convert('RGB'))


@needs_browser
def test_from_upload_to_masks_map_and_times(page, picture, segmenter, requested, address, tmp_path):
    choose(page, picture)
    choose_strategy(page, 'fast')
    page.get_by_role('button', name='Compare with no merging').click()
    status = page.get_by_role('status').filter(has_text='times as fast as without merging')
    expect(status).to_contain_text('fast at 96x128: ', timeout=60_000)
    expected = Comparer(segmenter)(np.asarray(Image.open(picture)), 'fast')
    for name, pixels in (
        ('Classes with merging', expected.overlay),
        ('Classes without merging', expected.overlay_unmerged),
        ('What was merged in the last block of each stage', np.asarray(expected.merge_map)),
    ):
        np.testing.assert_array_equal(shown(page, name, tmp_path), pixels)
    cells = page.get_by_role('table').get_by_role('cell').all_inner_texts()
    assert len(cells) == 2 and all(re.fullmatch(r'\d+ ms', cell) for cell in cells)
    listed = page.get_by_role('list', name='Classes with merging').get_by_role('listitem')
    expect(listed).to_have_count(len(expected.classes))
    asked = (urlsplit(url) for url in requested)
    hosts = {url.netloc for url in asked if url.scheme not in ('data', 'blob')}
    assert hosts == {urlsplit(address).netloc}


@needs_browser
def test_the_browser_may_load_nothing_from_elsewhere(page):
    failed = page.evaluate("fetch('https://example.org').then(() => 'loaded', e => e.message)")
    assert failed == 'Failed to fetch'
    blocked = page.evaluate(
        """new Promise(resolve => {
            document.addEventListener('securitypolicyviolation', e => resolve(e.blockedURI))
            document.head.append(Object.assign(document.createElement('script'),
                {src: 'https://example.org/script.js'}))
        })"""
    )
    assert blocked == 'https://example.org/script.js'


@needs_browser
def test_errors_are_for_people(page, broken, picture):
    button = page.get_by_role('button', name='Compare with no merging')
    button.click()
    expect_error(page, 'there is no image yet: upload one or choose a sample')
    page.locator('input[type=file]').set_input_files(broken)
    page.wait_for_timeout(500)
    button.click()
    expect_error(page, 'image broken.png cannot be read')
    page.get_by_role('button', name='Remove Image').click()
    choose(page, picture)
    box = page.get_by_role('spinbutton', name=re.compile('Queries'))
    box.fill('0.95')
    box.blur()
    expect(box).to_have_value('0.9375')


def test_a_ratio_that_the_page_would_not_send(segmenter, picture):
    ask = page_module.for_people(page_module.compare)
    with pytest.raises(gradio.Error, match='ratio=0.95 cannot be reached, at most 0.9375'):
        ask(Comparer(segmenter), dict(path=str(picture)), 'hq', 0.6, 0.95)


@pytest.mark.parametrize('meta', [dict(meta=dict(_type='gradio.FileData')), {}])
def test_only_what_was_uploaded_is_read(address, tmp_path, meta):
    session = f'secret{len(meta)}'
    secret = tmp_path.parent / 'secret.png'
    Image.new('RGB', (64, 64)).save(secret)
    config = httpx.get(f'{address}config').json()
    (button,) = (each for each in config['dependencies'] if len(each['inputs']) == 4)
    data = [dict(path=str(secret), **meta), 'none', 0.6, 0.8]
    join = dict(data=data, fn_index=button['id'], session_hash=session)
    httpx.post(f'{address}gradio_api/queue/join', json=join)
    answer = httpx.get(f'{address}gradio_api/queue/data?session_hash={session}', timeout=60).text
    assert '"success":false' in answer and 'image.png' not in answer


def test_a_sample_arrives_bit_for_bit(segmenter, tmp_path):
    pixels = np.random.default_rng().integers(0, 256, (64, 96, 3), dtype=np.uint8)
    page = build_page(Comparer(segmenter), 'tiny.py', {})
    (shown,) = [b for b in page.blocks.values() if getattr(b, 'label', None) == 'Image']
    shown.GRADIO_CACHE = str(tmp_path)
    path = shown.postprocess(Image.fromarray(pixels)).path
    assert np.array_equal(np.asarray(Image.open(path)), pixels)


@needs_browser
def test_samples(page):
    sample = page.get_by_role('combobox', name='Sample image')
    sample.click()
    page.get_by_role('option', name='large.png').click()
    expect_error(page, 'image large.png is 96x256, 24,576 pixels: at most 20,000')
    sample.click()
    page.get_by_role('option', name='sample.tif').click()
    expect(page.get_by_role('img', name='The image to predict')).to_be_visible()
    page.get_by_role('button', name='Compare with no merging').click()
    expect(page.get_by_text('hq at 64x96: ')).to_be_visible(timeout=60_000)


@needs_browser
def test_ratios_follow_the_strategy(page):
    boxes = page.get_by_role('spinbutton')
    for preset, values, limits in (
        ('fast', ['0.9', '0.9'], ['0.9375', '0.9375']),
        ('hq', ['0.6', '0.8'], ['0.75', '0.9375']),
    ):
        choose_strategy(page, preset)
        for index in range(2):
            expect(boxes.nth(index)).to_have_value(values[index])
            expect(page.get_by_role('slider').nth(index)).to_have_attribute('max', limits[index])
    choose_strategy(page, '2x2')
    expect(boxes).to_have_count(0)


@needs_browser
def test_with_the_keyboard_alone(page, picture):
    choose(page, picture)
    strategy = page.get_by_role('combobox', name='Strategy')
    strategy.focus()
    for key in ('ArrowDown', 'Enter'):
        page.keyboard.press(key)
    expect(strategy).to_have_value('fast')
    expect(page.get_by_role('spinbutton').first).to_have_value('0.9')
    names, button = [], page.get_by_role('button', name='Compare with no merging')
    for _ in range(20):
        page.keyboard.press('Tab')
        focused = page.locator(':focus')
        names.append(focused.get_attribute('aria-label') or focused.inner_text())
        if names[-1] == 'Compare with no merging':
            break
    assert all(names)
    for role in ('range slider for ', 'number input for '):
        for what in ('Keys and values', 'Queries'):
            assert any(name.startswith(role + what) for name in names), names
    expect(button).to_be_focused()
    page.keyboard.press('Enter')
    expect(page.get_by_text('fast at 96x128: ')).to_be_visible(timeout=60_000)


@needs_browser
@pytest.mark.parametrize('width', [400, 1280])
def test_nothing_is_cut_off(page, width):
    page.set_viewport_size(dict(width=width, height=900))
    expect(page.get_by_role('button', name='Compare with no merging')).to_be_visible()
    assert page.evaluate('document.documentElement.scrollWidth') <= width


@needs_browser
def test_usable_while_it_computes(page, picture, monkeypatch):
    go_on, plain = threading.Event(), comparison.predict_labels

    def waits(model, inputs):
        assert go_on.wait(60)
        return plain(model, inputs)

    monkeypatch.setattr(comparison, 'predict_labels', waits)
    choose(page, picture)
    page.get_by_role('button', name='Compare with no merging').click()
    choose_strategy(page, 'fast')
    expect(page.get_by_role('spinbutton').first).to_have_value('0.9')
    go_on.set()
    expect(page.get_by_text('hq at 96x128: ')).to_be_visible(timeout=60_000)


def test_a_port_that_is_taken(segmenter, address):
    page = build_page(Comparer(segmenter), 'tiny.py', {})
    with pytest.raises(SegformerPlusPlusError, match='cannot listen on 127.0.0.1, port'):
        serve(page, '127.0.0.1', urlsplit(address).port, open_browser=False)


@pytest.mark.parametrize('host', ['nowhere.invalid', '', '203.0.113.9', 'a b', 'x' * 300])
def test_a_host_that_is_none_of_this_machine(segmenter, host):
    page = build_page(Comparer(segmenter), 'tiny.py', {})
    with pytest.raises(
        SegformerPlusPlusError, match=f'^--host {host}: .*; give an address of this'
    ):
        serve(page, host, None, open_browser=False)


@pytest.mark.skipif(not socket.has_ipv6, reason='this machine has no IPv6')
@pytest.mark.parametrize('host', ['::1', '[::1]'])
def test_a_host_of_ipv6(segmenter, host):
    page = build_page(Comparer(segmenter), 'tiny.py', {})
    at = serve(page, host, None, open_browser=False)
    try:
        assert urlsplit(at).hostname == '::1' and httpx.get(at).status_code == 200
    finally:
        page.close(verbose=False)


@pytest.mark.parametrize(
    'names, status',
    [
        (['localhost', 'LOCALHOST', '127.0.0.1', '[::1]'], 200),
        (['evil.example', 'localhost.evil.example', '127.0.0.1.evil.example', '192.168.1.2',
          '[::1', '127.0.0.1@evil.example', '', 'localhost:7860:7860'], 400),
    ],
)  # fmt: skip
def test_a_name_that_leads_here_but_is_not_ours(address, names, status):
    """As of a page elsewhere, whose name is made to lead to this machine."""
    for name in names:
        for host in (name, f'{name}:{urlsplit(address).port}'):
            for path in ('', 'config', 'gradio_api/info'):
                answer = httpx.get(f'{address}{path}', headers={'host': host})
                assert answer.status_code == status, host
                assert status == 200 or 'open it under the address that it was' in answer.text


@pytest.mark.parametrize(
    'host, asked, allowed',
    [
        ('0.0.0.0', '192.168.1.2:80', True),
        ('0.0.0.0', socket.gethostname(), True),
        ('0.0.0.0', 'evil.example', False),
        ('::', '[fe80::1]:7860', True),
        ('box.example', 'box.example:7860', True),
        ('127.0.0.1', '192.168.1.2', False),
    ],
)
def test_names_of_a_page_that_the_network_may_reach(host, asked, allowed):
    scope = dict(type='http', path='/', headers=[(b'host', asked.encode())])
    assert (OnlyFromHere(None, host)._refusal(scope) is None) == allowed


def test_malformed_requests_get_a_sentence(address, capfd):
    (button,) = (
        each['id']
        for each in httpx.get(f'{address}config').json()['dependencies']
        if len(each['inputs']) == 4
    )
    join = f'{address}gradio_api/queue/join'
    ask = partial(httpx.post, join)
    for answer in (
        ask(content=b'{'),
        ask(json=[1]),
        ask(json=dict(data=[], fn_index=999, session_hash='a')),
        ask(json=dict(data=[], fn_index='x', session_hash='a')),
        httpx.post(f'{address}gradio_api/run/predict', json=dict(data=[], fn_index=button)),
        httpx.post(f'{address}gradio_api/upload', content=b'x'),
        httpx.get(f'{address}gradio_api/file=http://example.org/x.png'),
        httpx.get(f'{address}gradio_api/proxy=http://example.org/x.png'),
    ):
        assert 400 <= answer.status_code < 500 and answer.text.strip(), answer.url
        assert 'Traceback' not in answer.text
    for number, data in enumerate(
        ([], [1, 2, 3, 4], ['x', 'hq', 0.6, 0.8], [dict(path=5), 'hq', 0.6, 0.8], [1] * 9)
    ):
        ask(json=dict(data=data, fn_index=button, session_hash=f'n{number}'))
        data = httpx.get(f'{address}gradio_api/queue/data?session_hash=n{number}', timeout=60).text
        assert '"error":"the request cannot be understood"' in data
    assert 'Traceback' not in ''.join(capfd.readouterr())


@pytest.mark.parametrize(
    'upload, preset', [('x', 'hq'), ({'path': 5}, 'hq'), ({}, 'hq'), ({'path': 'x.png'}, ['hq'])]
)
def test_values_that_the_page_would_not_send(segmenter, upload, preset):
    ask = page_module.for_people(page_module.compare)
    with pytest.raises(gradio.Error, match='no image yet|no strategy'):
        ask(Comparer(segmenter), upload, preset, 0.6, 0.8)


@pytest.mark.parametrize('path', ['/etc/passwd', '/proc/self/environ', '{samples}/sample.tif'])
def test_files_of_others_are_not_given(address, path, tmp_path_factory):
    samples = next(tmp_path_factory.getbasetemp().glob('samples*'))
    answer = httpx.get(f'{address}gradio_api/file={path.format(samples=samples)}')
    assert answer.status_code == 403


def test_hosts():
    assert all(map(is_local, ('localhost', '127.0.0.1', '127.0.0.2', '::1')))
    assert not any(map(is_local, ('0.0.0.0', '::', '192.168.1.2', 'example.org')))
