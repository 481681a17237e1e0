"""The page in a real browser, as a person uses it, and that nothing is asked of other machines."""

import re
import shutil
import socket
import threading
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

httpx = pytest.importorskip('httpx', reason='it comes with Gradio')
gradio = pytest.importorskip('gradio', reason='the extra demo is not installed')
sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')

from segformer_plusplus.demo import Comparer, comparison, open_comparer, words as demo_words
from segformer_plusplus.demo.calls import ERROR, Calls, for_people
from segformer_plusplus.demo.page import build_page
from segformer_plusplus.demo.segmentation import SegmentationComparer
from segformer_plusplus.demo.serving import OnlyFromHere, is_local, serve
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.export import export_model
from segformer_plusplus.inference import Segmenter, open_model
from segformer_plusplus.inference.exported import exported_config

from .conftest import all_at_once

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
MAX_PIXELS = 20_000
ARGUMENTS = [
    *('--no-sandbox', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream')
]

needs_browser = pytest.mark.skipif(
    BROWSER is None, reason=f'no browser: none of {", ".join(NAMES)} is installed'
)
expect = sync_api.expect
expect.set_options(timeout=60_000)  # a machine that is busy takes its time


COMPARE = dict(role='button', name='Compare', exact=True)
ALT = 'The image to predict'

# texts whose colour is too near to that of what is behind them, as WCAG's level AA has it
CONTRAST = """() => {
    const numbers = text => text.match(/[\\d.]+/g).map(Number)
    const light = text => numbers(text).slice(0, 3).map(c => c / 255)
        .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0)
    const behind = each => {
        for (; each; each = each.parentElement) {
            const colour = getComputedStyle(each).backgroundColor
            if (numbers(colour)[3] !== 0) return colour
        }
        return 'rgb(255, 255, 255)'
    }
    const pale = []
    for (const each of document.querySelectorAll('main *')) {
        const text = [...each.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('')
        if (!/\\w\\w/.test(text) || !each.checkVisibility({visibilityProperty: true})) continue
        if (each.closest('svg, [aria-hidden=true]')) continue
        const [a, b] = [light(getComputedStyle(each).color), light(behind(each))]
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
        if (ratio < 4.5) pale.push(`${text.trim().slice(0, 40)}: ${ratio.toFixed(2)}`)
    }
    return pale
}"""


@pytest.fixture(scope='module')
def small_comparer(segmentation) -> Comparer:
    return SegmentationComparer(Segmenter(*segmentation, device='cpu'), MAX_PIXELS)


@pytest.fixture(scope='module')
def address(small_comparer, tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp('samples')
    pixels = np.random.default_rng().integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / 'sample.tif')
    Image.fromarray(pixels.repeat(4, axis=0)).save(folder / 'large.png')
    (folder / 'damaged.png').write_bytes((folder / 'large.png').read_bytes()[:1000])
    samples = {name: folder / name for name in ('sample.tif', 'large.png', 'damaged.png')}
    page = build_page(small_comparer, 'tiny.py', samples)
    yield serve(page, '127.0.0.1', None, open_browser=False)
    page.close(verbose=False)


@pytest.fixture(scope='module')
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        # as root, and in a container, Chromium has no sandbox
        started = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
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
    """Upload an image and wait until it is there as the page has read it."""
    with page.expect_response(re.compile('queue/join')):
        page.locator('input[type=file]').set_input_files(path)
    expect(page.get_by_role('img', name=ALT)).to_have_attribute('src', re.compile('image.png'))


def strategy(page: sync_api.Page, preset: str) -> sync_api.Locator:
    return page.get_by_role('radio', name=re.compile(f'^{preset}: '))


def choose_strategy(page: sync_api.Page, preset: str) -> None:
    strategy(page, preset).check()


def queries(page: sync_api.Page) -> sync_api.Locator:
    return page.get_by_role('spinbutton', name=re.compile('Queries'))


def type_queries(page: sync_api.Page, ratio: str) -> None:
    queries(page).fill(ratio)
    queries(page).blur()


def merged(page: sync_api.Page) -> sync_api.Locator:
    """Find what is said to be merged, a line per stage."""
    return page.get_by_role('list', name='What is merged in stages').get_by_role('listitem')


def compare(page: sync_api.Page) -> sync_api.Locator:
    """Press the button and wait for the sentence that says what came of it."""
    page.get_by_role(**COMPARE).click()
    summary = page.locator('.summary')
    expect(summary).to_be_visible()
    return summary


def pixels_at(page: sync_api.Page, image: sync_api.Locator, folder: Path) -> np.ndarray:
    """The pixels of a picture on the page."""
    expect(image).to_be_visible()
    path = folder / 'shown.png'
    path.write_bytes(page.request.get(image.get_attribute('src')).body())
    return np.asarray(Image.open(path).convert('RGB'))


@needs_browser
def test_from_upload_to_masks_map_and_times(
    page, picture, small_comparer, requested, address, tmp_path
):
    choose(page, picture)
    choose_strategy(page, 'fast')
    expect(compare(page)).to_contain_text('fast at 128 x 96 pixels is ')
    expected = small_comparer(np.asarray(Image.open(picture)), 'fast')
    outcome = expected.outcome
    for name, pixels in (('without', outcome.unmerged), ('with', outcome.merged)):
        image = page.get_by_role('img', name=f'Prediction {name} merging')
        np.testing.assert_array_equal(pixels_at(page, image, tmp_path), pixels)
    expect(image).to_have_css('clip-path', re.compile(r'50%\)$'))
    page.get_by_role('slider', name=re.compile('Left: without merging')).focus()
    page.keyboard.press('Home')
    expect(image).to_have_css('clip-path', re.compile(r'0px [01](\.\d+)?%\)$'))
    for number, stage in enumerate(expected.stages, 1):
        page.get_by_role('tab', name=f'Stage {number}').click()
        image = page.get_by_role('img', name=f'What was merged in stage {number}')
        ((said, pixels),) = stage.items()
        expect(page.get_by_text(said)).to_be_visible()
        np.testing.assert_array_equal(pixels_at(page, image, tmp_path), pixels)
    page.get_by_role('tab', name='Changed labels').click()
    image = page.get_by_role('img', name='Changed labels')
    np.testing.assert_array_equal(pixels_at(page, image, tmp_path), outcome.changed)
    cells = page.get_by_role('table').get_by_role('cell').all_inner_texts()
    assert len(cells) == 2 and all(re.fullmatch(r'\d+ ms', cell) for cell in cells)
    listed = page.get_by_role('list', name='Classes with merging').get_by_role('listitem')
    expect(listed).to_have_count(len(outcome.legend))
    asked = (urlsplit(url) for url in requested)
    hosts = {url.netloc for url in asked if url.scheme not in ('data', 'blob')}
    assert hosts == {urlsplit(address).netloc}


@needs_browser
def test_a_result_of_another_setting_is_stale(page, picture):
    stale = page.get_by_text('This is the result of the earlier setting; press Compare.')
    choose(page, picture)
    compare(page)
    expect(stale).to_be_hidden()
    choose_strategy(page, 'fast')
    expect(stale).to_be_visible()
    dimmed = page.locator('#results').get_by_text('hq at 128 x 96').locator('xpath=../../..')
    expect(dimmed).to_have_css('opacity', '0.4')
    choose_strategy(page, 'hq')
    expect(stale).to_be_hidden()
    slider = page.get_by_role('slider', name=re.compile('Queries'))
    slider.focus()
    page.keyboard.press('ArrowLeft')
    expect(stale).to_be_visible()
    page.keyboard.press('ArrowRight')
    expect(stale).to_be_hidden()
    page.get_by_role('button', name='sample.tif').click()
    expect(stale).to_be_visible()
    page.get_by_role(**COMPARE).click()
    expect(page.get_by_text('hq at 96 x 64 pixels')).to_be_visible()
    expect(stale).to_be_hidden()


@needs_browser
def test_what_changes_meanwhile_makes_the_result_stale(page, picture, monkeypatch):
    go_on, plain = threading.Event(), comparison.predict_labels

    def waits(model, inputs):
        assert go_on.wait(60)
        return plain(model, inputs)

    monkeypatch.setattr(comparison, 'predict_labels', waits)
    choose(page, picture)
    page.get_by_role(**COMPARE).click()
    expect(page.get_by_role('button', name='Comparing ...')).to_be_visible()
    choose_strategy(page, 'fast')
    expect(page.get_by_role('spinbutton').first).to_have_value('0.9')
    go_on.set()
    expect(page.get_by_text('hq at 128 x 96 pixels')).to_be_visible()
    expect(page.get_by_text('the result of the earlier setting')).to_be_visible()


@needs_browser
def test_a_link_holds_the_settings(browser, page, address, picture):
    page.get_by_role('button', name='sample.tif').click()
    expect(page.get_by_role('img', name=ALT)).to_be_visible()
    choose_strategy(page, 'fast')
    expect(queries(page)).to_have_value('0.9')
    type_queries(page, '0.5')
    expect(page).to_have_url(f'{address}?strategy=fast&kv=0.9&q=0.5&sample=sample.tif')
    page.context.grant_permissions(['clipboard-read', 'clipboard-write'])
    page.get_by_role('button', name='Copy the link to these settings').click()
    expect(page.get_by_text('copied', exact=True)).to_be_visible()
    link = page.evaluate('navigator.clipboard.readText()')
    other = browser.new_page()
    other.goto(link)
    expect(strategy(other, 'fast')).to_be_checked()
    expect(queries(other)).to_have_value('0.5')
    expect(other.get_by_role('img', name=ALT)).to_be_visible()
    assert other.url == link
    expect(compare(other)).to_contain_text('fast at 96 x 64 pixels')
    choose(other, picture)  # which is on no other machine
    expect(other).to_have_url(f'{address}?strategy=fast&kv=0.9&q=0.5')
    choose_strategy(other, '2x2')
    expect(other).to_have_url(f'{address}?strategy=2x2')
    other.close()


@needs_browser
def test_what_is_chosen_while_the_server_is_slow(page, address, monkeypatch):
    """The last choice wins, of the sliders, of the address and of what is said."""
    go_on, plain = threading.Event(), demo_words.strategy

    def late(stages):
        assert go_on.wait(60)
        return plain(stages)

    monkeypatch.setattr(demo_words, 'strategy', late)
    choose_strategy(page, 'fast')
    expect(queries(page)).to_have_value('0.9')
    type_queries(page, '0.5')
    expect(page).to_have_url(f'{address}?strategy=fast&kv=0.9&q=0.5')
    expect(merged(page).last).to_contain_text('80 % merged')
    go_on.set()
    expect(merged(page).last).to_contain_text('50 % merged')
    expect(merged(page).first).to_contain_text('90 % merged')
    expect(queries(page)).to_have_value('0.5')


@needs_browser
@pytest.mark.parametrize(
    'query, said',
    [
        ('strategy=quick&sample=sample.tif', "strategy='quick' is none of none, hq"),
        ('q=7&sample=sample.tif', 'ratio=7.0 is not a number in [0, 1]'),
        ('sample=damaged.png', 'image damaged.png cannot be read'),
        ('sample=<b>', "there is no sample '<b>'"),
    ],
)
def test_a_link_of_nonsense(page, address, query, said):
    page.goto(f'{address}?{query}')
    alert = page.get_by_role('alert')
    expect(alert).to_contain_text('ignored in the link: ')
    expect(alert).to_contain_text(said)
    expect(strategy(page, 'hq')).to_be_checked()
    expect(page.get_by_role('img', name=ALT)).to_have_count(query.count('sample.tif'))


@needs_browser
def test_a_camera(page):
    page.get_by_role('button', name='Capture from camera').click()
    page.get_by_role('button', name='Click to Access Webcam').click()
    page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
    page.get_by_role('button', name='capture photo').click()
    expect(page.get_by_role('img', name=ALT)).to_be_visible()
    expect(compare(page)).to_contain_text('pixels is')


@needs_browser
def test_a_pose_model(browser, pose_comparer, picture, tmp_path):
    served = build_page(pose_comparer, 'pose.py', {})
    page = browser.new_page()
    page.goto(serve(served, '127.0.0.1', None, open_browser=False))
    choose(page, picture)
    choose_strategy(page, '2x2')
    expect(compare(page)).to_contain_text(re.compile(r'move by \d+\.\d\d pixels of the image'))
    expected = pose_comparer(np.asarray(Image.open(picture)), '2x2').outcome
    image = page.get_by_role('img', name='Prediction with merging')
    np.testing.assert_array_equal(pixels_at(page, image, tmp_path), expected.merged)
    page.get_by_role('tab', name='Moved keypoints').click()
    listed = page.get_by_role('list', name='How far each keypoint moved').get_by_role('listitem')
    expect(listed).to_have_count(17)
    expect(strategy(page, 'downsampling')).to_have_count(0)
    page.close()
    served.close(verbose=False)


def test_twenty_visitors_at_once(address, monkeypatch):
    """Nine get a result of their own image, the others a sentence; nothing is mixed up."""
    gate, plain, waiting = threading.Event(), comparison.predict_labels, comparison.WAITING

    def waits(model, inputs):
        assert gate.wait(60)
        return plain(model, inputs)

    join, listen = f'{address}gradio_api/queue/join', f'{address}gradio_api/queue/data'
    button, uploads = compare_function(address), []
    for index in range(20):
        content = BytesIO()
        Image.new('RGB', (64 + 4 * index, 64)).save(content, 'PNG')
        files = dict(files=(f'{index}.png', content.getvalue()))
        uploads += httpx.post(f'{address}gradio_api/upload', files=files).json()
    monkeypatch.setattr(comparison, 'predict_labels', waits)
    for index, path in enumerate(uploads):
        upload = dict(path=path, meta=dict(_type='gradio.FileData'))
        body = dict(data=[upload, 'fast', 0.5, 0.5], fn_index=button, session_hash=f'v{index}')
        assert httpx.post(join, json=body).status_code == 200
    answers: dict[int, str] = {}

    def listens(index: int) -> None:
        asked = dict(session_hash=f'v{index}')
        answers[index] = httpx.get(listen, params=asked, timeout=90).text

    all_at_once(listens, range(20), answers, 20 - waiting - 1, gate)
    refused = [index for index, said in answers.items() if 'comparisons of others wait' in said]
    assert len(answers) == 20 and len(refused) == 20 - waiting - 1
    for index in set(range(20)) - set(refused):
        assert f'at {64 + 4 * index} x 64 pixels' in answers[index]


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
def test_errors_are_for_people_and_go_away(page, broken, picture):
    alert = page.get_by_role('alert')
    for _ in range(2):  # the same one comes again
        page.get_by_role(**COMPARE).click()
        expect(alert).to_have_text('there is no image yet: upload one or choose a sample')
        page.locator('h1').click()
        expect(alert).to_be_hidden()
    page.locator('input[type=file]').set_input_files(broken)
    expect(alert).to_contain_text('image broken.png cannot be read')
    choose(page, picture)
    expect(alert).to_have_count(0)
    type_queries(page, '0.95')
    expect(queries(page)).to_have_value('0.9375')
    expect(page.get_by_test_id('toast-body')).to_have_count(0)


@needs_browser
def test_a_large_image_is_scaled_down_with_a_note(page):
    page.get_by_role('button', name='large.png').click()
    note = 'scaled down from 96 x 256 to 86 x 230 pixels; --max-pixels 24576 takes it whole'
    expect(page.get_by_text(note)).to_be_visible()
    expect(compare(page)).to_contain_text('hq at 86 x 230 pixels')
    page.get_by_role('button', name='Remove Image').click()
    expect(page.get_by_text(note)).to_have_count(0)


@pytest.fixture
def calls(small_comparer, tmp_path) -> Calls:
    found = Calls(small_comparer, {})
    found.folder = str(tmp_path)
    return found


def test_a_ratio_that_the_page_would_not_send(calls, picture):
    ask = for_people(calls.compare, ERROR, None)
    said, other = ask(dict(path=str(picture)), 'hq', 0.6, 0.95)
    assert 'ratio=0.95 cannot be reached, at most 0.9375' in said and other is None


def test_a_fault_is_told_and_goes_to_the_terminal(calls, picture, monkeypatch, capfd):
    monkeypatch.setattr(comparison, 'merge_map', lambda *values: 1 / 0)
    said = for_people(calls.compare, ERROR)(dict(path=str(picture)), 'hq', 0.6, 0.8)
    assert 'a fault of the page: ZeroDivisionError; the terminal shows more' in said
    assert 'Traceback' in capfd.readouterr().err


def compare_function(address: str) -> int:
    """The number under which Gradio has what the button calls."""
    found = httpx.get(f'{address}config').json()['dependencies']
    (button,) = (each['id'] for each in found if len(each['inputs']) == 4)
    return button


@pytest.mark.parametrize('meta', [dict(meta=dict(_type='gradio.FileData')), {}])
def test_only_what_was_uploaded_is_read(address, tmp_path, meta):
    session = f'secret{len(meta)}'
    secret = tmp_path.parent / 'secret.png'
    Image.new('RGB', (64, 64)).save(secret)
    data = [dict(path=str(secret), **meta), 'none', 0.6, 0.8]
    join = dict(data=data, fn_index=compare_function(address), session_hash=session)
    httpx.post(f'{address}gradio_api/queue/join', json=join)
    answer = httpx.get(f'{address}gradio_api/queue/data?session_hash={session}', timeout=60).text
    assert 'image.png' not in answer and 'class=\\"summary' not in answer
    assert '"success":false' in answer or 'there is no image yet' in answer


def test_an_image_is_shown_bit_for_bit(calls, tmp_path):
    pixels = np.random.default_rng().integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    page = build_page(calls._comparer, 'tiny.py', {})
    (shown,) = [b for b in page.blocks.values() if getattr(b, 'label', None) == 'Image']
    shown.GRADIO_CACHE = str(tmp_path)
    image, sample, said = calls.take(dict(path=str(tmp_path / 'a.png')))
    path = shown.postprocess(image).path
    assert np.array_equal(np.asarray(Image.open(path)), pixels) and (sample, said) == ('', '')


def test_every_sample_that_can_be_read_has_a_thumbnail(small_comparer, picture, broken):
    samples = {'broken.png': broken} | {f'{index}.png': picture for index in range(30)}
    found = Calls(small_comparer, samples).thumbnails
    assert [name for _, name in found] == [f'{index}.png' for index in range(24)]


@needs_browser
def test_ratios_and_words_follow_the_strategy(page):
    boxes = page.get_by_role('spinbutton')
    words = merged(page)
    for preset, values, limits in (
        ('fast', ['0.9', '0.9'], ['0.9375', '0.9375']),
        ('hq', ['0.6', '0.8'], ['0.75', '0.9375']),
    ):
        choose_strategy(page, preset)
        for index in range(2):
            expect(boxes.nth(index)).to_have_value(values[index])
            expect(page.get_by_role('slider').nth(index)).to_have_attribute('max', limits[index])
        expect(words.nth(2)).to_contain_text(f'queries: matching, {float(values[1]):.0%}'[:-1])
    boxes.first.fill('0.25')
    boxes.first.blur()
    expect(words.first).to_contain_text('25 % merged')
    choose_strategy(page, '2x2')
    expect(boxes).to_have_count(1)  # that of the divider
    expect(words.first).to_have_text('queries: mean of 2x2 cells')


@needs_browser
def test_with_the_keyboard_alone(page):
    names: list[str] = []

    def go_to(name: str) -> None:
        for _ in range(30):
            page.keyboard.press('Tab')
            focused = page.locator(':focus')
            said = focused.get_attribute('aria-label') or focused.inner_text()
            names.append(said or focused.evaluate('each => each.labels?.[0]?.innerText ?? ""'))
            if names[-1].startswith(name):
                return
        raise AssertionError(f'{name} is not reached: {names}')

    expect(page.get_by_role('button', name='sample.tif')).to_be_visible()
    go_to('sample.tif')
    page.keyboard.press('Enter')
    expect(page.get_by_role('img', name=ALT)).to_be_visible()
    go_to('hq: ')
    page.keyboard.press('ArrowDown')
    expect(strategy(page, 'fast')).to_be_checked()
    expect(page.get_by_role('spinbutton').first).to_have_value('0.9')
    go_to('Compare')
    assert all(names), names
    for role in ('range slider for ', 'number input for '):
        for what in ('Keys and values', 'Queries'):
            assert any(name.startswith(role + what) for name in names), names
    page.keyboard.press('Enter')
    expect(page.get_by_text('fast at 96 x 64 pixels')).to_be_visible()


@needs_browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_nothing_is_cut_off_or_too_pale(browser, address, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(f'{address}?sample=sample.tif')
    expect(page.get_by_role('img', name=ALT)).to_be_visible()
    compare(page)
    for width in (390, 1440):
        page.set_viewport_size(dict(width=width, height=900))
        expect(page.get_by_role('tab', name='Stage 4')).to_be_visible()
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        assert page.evaluate(CONTRAST) == []
    page.close()


def test_a_port_that_is_taken(small_comparer, address):
    page = build_page(small_comparer, 'tiny.py', {})
    with pytest.raises(SegformerPlusPlusError, match='cannot listen on 127.0.0.1, port'):
        serve(page, '127.0.0.1', urlsplit(address).port, open_browser=False)


@pytest.mark.parametrize('host', ['nowhere.invalid', '', '203.0.113.9', 'a b', 'x' * 300])
def test_a_host_that_is_none_of_this_machine(small_comparer, host):
    page = build_page(small_comparer, 'tiny.py', {})
    with pytest.raises(
        SegformerPlusPlusError, match=f'^--host {host}: .*; give an address of this'
    ):
        serve(page, host, None, open_browser=False)


@pytest.mark.skipif(not socket.has_ipv6, reason='this machine has no IPv6')
@pytest.mark.parametrize('host', ['::1', '[::1]'])
def test_a_host_of_ipv6(small_comparer, host):
    page = build_page(small_comparer, 'tiny.py', {})
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
    button = compare_function(address)
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
    'upload, preset',
    [('x', 'hq'), ({'path': 5}, 'hq'), ({}, 'hq'), ({'path': '{folder}/x'}, ['hq'])],
)
def test_values_that_the_page_would_not_send(calls, upload, preset):
    with pytest.raises(SegformerPlusPlusError, match='no image yet|no strategy'):
        if 'path' in upload and isinstance(upload['path'], str):
            upload = dict(path=upload['path'].format(folder=calls.folder))
        calls.compare(upload, preset, 0.6, 0.8)


@pytest.mark.parametrize(
    'preset, ratio, said',
    [
        (['hq'], 0.6, 'no strategy'),
        ('quick', 0.6, 'quick'),
        ('hq', 'x', 'ratio'),
        ('hq', 2, 'ratio'),
    ],
)
def test_a_strategy_that_the_page_would_not_send(calls, preset, ratio, said):
    with pytest.raises(SegformerPlusPlusError, match=said):
        calls.explain(preset, 0.6, ratio)


@pytest.mark.parametrize('path', ['/etc/passwd', '/proc/self/environ', '{samples}/sample.tif'])
def test_files_of_others_are_not_given(address, path, tmp_path_factory):
    samples = next(tmp_path_factory.getbasetemp().glob('samples*'))
    answer = httpx.get(f'{address}gradio_api/file={path.format(samples=samples)}')
    assert answer.status_code == 403


def test_hosts():
    assert all(map(is_local, ('localhost', '127.0.0.1', '127.0.0.2', '::1')))
    assert not any(map(is_local, ('0.0.0.0', '::', '192.168.1.2', 'example.org')))


@needs_browser
def test_files_on_the_page(browser, segmentation, tmp_path, picture):
    """Their names are the choice; one chooses, compares, reads both times, and sees no stages."""
    for name, merging in (('plain.pt2', None), ('merged.pt2', '2x2')):
        export_model(
            open_model(*segmentation, device='cpu'), tmp_path / name, format='torch-export',
            shape=(96, 128), token_merging=merging,
        )  # fmt: skip
    paths = [str(tmp_path / name) for name in ('plain.pt2', 'merged.pt2')]
    comparer = open_comparer(exported_config(paths[0]), paths[1])
    built = build_page(comparer, 'plain.pt2', {'street.png': picture})
    opened = browser.new_page(viewport=dict(width=1280, height=900))
    failures: list[str] = []
    opened.on('pageerror', lambda error: failures.append(str(error)))
    try:
        opened.goto(serve(built, '127.0.0.1', None, open_browser=False))
        group = opened.get_by_role('radiogroup', name='File')
        expect(group.get_by_role('radio')).to_have_count(2)
        expect(opened.get_by_role('radio', name='merged.pt2')).to_be_checked()
        expect(opened.get_by_text('What was merged')).to_have_count(0)
        opened.get_by_role('button', name='street.png').click()
        expect(opened.get_by_alt_text(ALT)).to_be_visible()
        opened.get_by_role(**COMPARE).click()
        summary = opened.locator('.summary')
        expect(summary).to_contain_text('merged.pt2 at 128 x 96 pixels is')
        expect(summary).to_contain_text('of the pixels change their class')
        expect(opened.get_by_alt_text('Prediction by plain.pt2')).to_have_count(1)
        expect(opened.get_by_alt_text('Prediction by the chosen file')).to_have_count(1)
        expect(opened.locator('.times th')).to_have_text(['plain.pt2', 'merged.pt2'])
        opened.get_by_role('radio', name='plain.pt2').click()
        expect(opened.locator('#stale')).to_be_visible()
        assert 'strategy=plain.pt2' in opened.url and 'kv=' not in opened.url
        opened.goto(opened.url)
        expect(opened.get_by_role('radio', name='plain.pt2')).to_be_checked()
        assert not failures
    finally:
        opened.close()
        built.close(verbose=False)
