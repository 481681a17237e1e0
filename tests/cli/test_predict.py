"""segformer-plusplus predict: what it writes for every kind of input, and what it refuses."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from inference.test_encoding import record
from inference.test_sources import random_image, write_video
from PIL import Image

pytest.importorskip('mmseg')

from segformer_plusplus.cli.predict import main
from segformer_plusplus.inference import Segmenter
from segformer_plusplus.inference.legend import Legend
from segformer_plusplus.inference.video import VideoFile


def predict(model, *arguments):
    device = () if '--device' in arguments else ('--device', 'cpu')
    return main([str(word) for word in (*model, *arguments, *device)])


def refused(capfd, model, *arguments):
    """The one line of an error that the command must end with."""
    capfd.readouterr()
    assert predict(model, *arguments) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1
    return lines[0]


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'in'
    (folder / 'deep').mkdir(parents=True)
    for name in ('a.png', 'a.jpg', 'deep/b.png'):
        cv2.imwrite(str(folder / name), random_image(64, 96))
    return folder


def test_masks_and_overlays_of_a_folder(segmentation, images, tmp_path):
    out = tmp_path / 'out'
    assert predict(segmentation, images, '--out', out, '--batch-size', 2) == 0
    names = ['a-2.png', 'a.png', 'deep/b.png']  # a.jpg comes first
    assert files(out) == [f'{kind}/{name}' for kind in ('masks', 'overlays') for name in names]
    segmenter = Segmenter(*segmentation, device='cpu')
    image = cv2.imread(str(images / 'deep/b.png'))
    labels = segmenter(image).pred_sem_seg.data[0].numpy()
    mask = np.asarray(Image.open(out / 'masks/deep/b.png'))
    assert (mask == labels).mean() > 0.999
    legend = Legend(segmenter.classes, segmenter.palette).width(64, 96)
    overlay = cv2.imread(str(out / 'overlays/deep/b.png'))
    assert overlay.shape == (64, 96 + legend, 3) and legend > 0
    overlay = overlay[:, :96]
    colours = segmenter.palette[mask][..., ::-1]
    np.testing.assert_allclose(overlay, (image.astype(float) + colours) / 2, atol=0.5)


def test_masks_alone_in_tiles(segmentation, tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), random_image(100, 300))
    arguments = ['--out', tmp_path / 'out', '--save-as', 'masks']
    arguments += ['--tile', '64x96', '--overlap', 16]
    assert predict(segmentation, tmp_path / 'x.png', *arguments) == 0
    assert files(tmp_path / 'out') == ['masks/x.png']
    tiled = Segmenter(*segmentation, device='cpu', tile=(64, 96), overlap=16)
    expected = tiled(tmp_path / 'x.png').pred_sem_seg.data[0].numpy()
    mask = np.asarray(Image.open(tmp_path / 'out/masks/x.png'))
    assert (mask == expected).mean() > 0.999


def test_a_video_that_is_given_twice_becomes_two_and_errors_are_one_line(
    segmentation, tmp_path, capfd
):
    write_video(tmp_path / 'clip.avi', frames=3, size=(64, 64))
    broken = tmp_path / 'a\n\x1b[2J.png'
    broken.touch()
    inputs = [tmp_path, tmp_path / 'clip.avi']
    assert predict(segmentation, *inputs, '--out', tmp_path / 'out', '--save-as', 'overlays') == 1
    assert 'a\\n\\x1b[2J.png cannot be read: the file is empty\n' in capfd.readouterr().err
    for name in ('clip.mp4', 'clip-2.mp4'):
        video = cv2.VideoCapture(str(tmp_path / 'out/overlays' / name))
        assert sum(video.read()[0] for _ in range(9)) == 3


def test_a_video_becomes_a_video(segmentation, tmp_path):
    write_video(tmp_path / 'clip.avi', frames=4)
    assert predict(segmentation, tmp_path / 'clip.avi', '--out', tmp_path / 'out') == 0
    masks = [f'masks/clip.avi/{n:06d}.png' for n in range(4)]
    assert files(tmp_path / 'out') == [*masks, 'overlays/clip.mp4']
    video = cv2.VideoCapture(str(tmp_path / 'out/overlays/clip.mp4'))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and video.get(cv2.CAP_PROP_FPS) == 10
    segmenter = Segmenter(*segmentation, device='cpu')
    width = 64 + Legend(segmenter.classes, segmenter.palette).width(48, 64)
    width += width % 2  # which H.264 needs
    size = video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)
    assert size == (width, 48)


def test_a_video_that_is_cut_off_is_written_so_far_with_its_sound(segmentation, tmp_path, capfd):
    av = pytest.importorskip('av', reason='the extra video is not installed')
    record(av, tmp_path / 'clip.mkv', ['mp3'], frames=60)
    data = (tmp_path / 'clip.mkv').read_bytes()
    (tmp_path / 'clip.mkv').write_bytes(data[: len(data) * 6 // 10])
    arguments = [tmp_path / 'clip.mkv', '--out', tmp_path / 'out', '--save-as', 'overlays']
    assert predict(segmentation, *arguments) == 1
    assert 'clip.mkv ends after ' in capfd.readouterr().err
    with av.open(str(tmp_path / 'out/overlays/clip.mp4')) as video:
        assert 10 < video.streams.video[0].frames < 60
        sound = video.streams.audio[0]
        assert 0.5 < sound.duration * sound.time_base < 2


def test_what_cannot_be_read_is_named_and_counted(segmentation, images, tmp_path, capfd):
    (images / 'broken.png').write_bytes(b'no image')
    (images / 'clip.mp4').write_bytes(b'no video')
    assert predict(segmentation, images, '--out', tmp_path / 'out') == 1
    error = capfd.readouterr().err
    assert 'error: image' in error and 'broken.png cannot be read' in error
    assert 'clip.mp4 cannot be read' in error
    assert '3 predicted, 2 could not be read' in error
    assert len(files(tmp_path / 'out')) == 6


def test_keypoints_and_skeletons(pose, tmp_path):
    for name in 'ab':
        cv2.imwrite(str(tmp_path / f'{name}.png'), random_image(100, 120))
    boxes = {'a.png': [[5, 4, 60, 80], [20, 10, 90, 99]]}
    (tmp_path / 'boxes.json').write_text(json.dumps(boxes))
    inputs = [tmp_path / 'a.png', tmp_path / 'b.png', '--boxes', tmp_path / 'boxes.json']
    assert predict(pose, *inputs, '--out', tmp_path / 'out', '--batch-size', 2) == 0
    assert files(tmp_path / 'out') == ['keypoints.json', 'overlays/a.png', 'overlays/b.png']
    content = json.loads((tmp_path / 'out/keypoints.json').read_text())
    assert content['keypoint_names'][0] == 'nose'
    a, b = content['images']
    assert [len(each['people']) for each in (a, b)] == [2, 1]
    assert a['people'][1]['box'] == [20, 10, 90, 99] and b['people'][0]['box'] == [0, 0, 120, 100]
    assert all(len(person['keypoints']) == 17 for person in a['people'])


@pytest.mark.parametrize('kinds', [['grey'], ['grey', 'masks'], ['overlays', 'grey']])
def test_what_is_chosen_is_written(segmentation, images, tmp_path, kinds):
    out = tmp_path / 'out'
    arguments = [images, '--out', out, '--no-legend', '--save-as', *kinds]
    assert predict(segmentation, *arguments) == 0
    assert {path.name for path in out.iterdir()} == set(kinds)
    labels = Segmenter(*segmentation, device='cpu')(images / 'a.png').pred_sem_seg.data[0].numpy()
    grey = cv2.imread(str(out / 'grey/a-2.png'), cv2.IMREAD_UNCHANGED)  # a.jpg comes first
    assert grey.shape == labels.shape and (grey == labels).mean() > 0.999
    if 'masks' in kinds:
        np.testing.assert_array_equal(np.asarray(Image.open(out / 'masks/a-2.png')), grey)
    if 'overlays' in kinds:
        assert cv2.imread(str(out / 'overlays/a-2.png')).shape == (64, 96, 3)


def test_poses_as_coco_results(pose, tmp_path, capfd):
    (tmp_path / 'in').mkdir()
    for name in ('000000000139', 'COCO_val2014_000000000042'):
        cv2.imwrite(str(tmp_path / f'in/{name}.png'), random_image(100, 120))
    arguments = [tmp_path / 'in', '--out', tmp_path / 'out', '--save-as']
    assert '--save-as grey is not for a config of mmpose; give one or more of overlays, ' in (
        refused(capfd, pose, *arguments, 'grey')
    )
    assert predict(pose, *arguments, 'coco') == 0
    assert files(tmp_path / 'out') == ['coco_keypoints.json']
    results = json.loads((tmp_path / 'out/coco_keypoints.json').read_text())
    assert [each['image_id'] for each in results] == [139, 42]
    assert all(len(each['keypoints']) == 51 for each in results)
    assert [each['bbox'] for each in results] == [[0, 0, 120, 100]] * 2


def test_what_cannot_be_written(segmentation, images, tmp_path, capfd, monkeypatch):
    """The old file stays as it was, also when the disk is full."""
    out = tmp_path / 'out'
    (tmp_path / 'file').touch()
    assert '/file' in refused(capfd, segmentation, images / 'a.png', '--out', tmp_path / 'file')
    assert predict(segmentation, images / 'a.png', '--out', out) == 0
    before = (out / 'masks/a.png').read_bytes()

    def full(source, target):
        raise OSError(28, os.strerror(28), str(target))

    monkeypatch.setattr(os, 'replace', full)
    assert 'No space left on device' in refused(capfd, segmentation, images / 'a.png', '--out', out)
    assert (out / 'masks/a.png').read_bytes() == before
    assert files(out) == ['masks/a.png', 'overlays/a.png']


def test_a_disk_that_is_full_before_the_video_ends(segmentation, tmp_path, capfd, monkeypatch):
    write_video(tmp_path / 'clip.avi', frames=4)
    arguments = [tmp_path / 'clip.avi', '--out', tmp_path / 'out', '--save-as', 'overlays']
    assert predict(segmentation, *arguments) == 0
    before = (tmp_path / 'out/overlays/clip.mp4').read_bytes()
    release = VideoFile._check

    def cut_short(self):  # as OpenCV leaves it: without a word
        self._beside.write_bytes(self._beside.read_bytes()[:600])
        release(self)

    monkeypatch.setattr(VideoFile, '_check', cut_short)
    assert 'is the disk full?' in refused(capfd, segmentation, *arguments)
    assert (tmp_path / 'out/overlays/clip.mp4').read_bytes() == before
    assert files(tmp_path / 'out') == ['overlays/clip.mp4']


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['nowhere.png'], 'input not found: nowhere.png'),
        ([''], "input '' is no path"),
        (['https://x.org/a.png'], "input 'https://x.org/a.png' is no path"),
        (['{image}', '--opacity', '2'], '--opacity is 2.0'),
        (['{image}', '--overlap', '3'], '--overlap goes with --tile'),
        (['{image}', '--tile', '64x64', '--overlap', '64'], 'overlap is 64'),
        (['{image}', '--boxes', 'x'], '--boxes is for poses'),
        (
            ['{image}', '--save-as', 'masks', 'coco'],
            'coco is not for a config of mmseg; give one or more of overlays, masks, grey',
        ),
        (['{image}', '--save-as', 'jpeg'], 'Choose from: "overlays", "masks", "grey"'),
        (['{image}', '--no-masks'], '--no-masks'),
        (['{image}', '--device', 'meat'], '--device meat: '),
        (['{image}', '--device', 'cpu:99'], '--device cpu:99: no model runs on it; use cpu'),
        (['{image}', '--device', 'meta'], '--device meta: no model runs on it; use cpu'),
        (['{image}', '--opacity', 'nan'], '--opacity is nan'),
        (['{image}', '--min-score', 'nan'], '--min-score is nan'),
        (['{image}', '--batch-size', '9' * 20], 'is too large'),
        (['{image}', '--overlap', '9' * 20, '--tile', '64x64'], 'for --overlap'),
        (['{image}', '--token-merging', 'hg'], 'hg'),
    ],
)
def test_calls_that_are_refused(segmentation, images, tmp_path, capfd, arguments, message):
    out = tmp_path / 'out'
    words = [word.replace('{image}', str(images / 'a.png')) for word in arguments]
    assert message in refused(capfd, segmentation, *words, '--out', out)
    assert not out.exists()


@pytest.mark.parametrize(
    'content, words',
    [
        ('[1]', 'holds a list; expected an object'),
        ('no json', 'cannot be read'),
        ('{"a.png": [[0, 0, 9, 9]], "a.png": []}', "cannot be read: 'a.png' stands there twice"),
        ('{"a.png": [[1, 2]]}', 'each as left, top, right, bottom'),
        ('{"a.png": [[1, 2, 3, 4, 0.9]]}', '[[1, 2, 3, 4, 0.9]] has the shape (1, 5)'),
        (
            '{"a.png": null}',
            'None has the shape (); give a list, each as left, top, right, bottom; [] is nobody',
        ),
        ('{"a.png": [[1, 2, 3, 4], [1]]}', 'are no numbers'),
        ('{"a.png": [[3, 2, 1, 4]]}', 'has no area'),
        ('{"a.png": [[NaN, 2, 3, 4]]}', 'has no area'),
        ('{"a.png": [[0, 0, 1e30, 1e30]]}', 'or none in a picture'),
        ('{"in/a.png": []}', "no picture has the name 'in/a.png'; names are as 'a.png'"),
        ('{"a": []}', "no picture has the name 'a'"),
        ('{"clip.avi": []}', "no picture has the name 'clip.avi'"),
        ('{"lost.avi/000000": []}', "no picture has the name 'lost.avi/000000'"),
        ('{"b.png": []}', "2 pictures have the name 'b.png'"),
    ],
)
def test_boxes_that_are_refused(pose, tmp_path, capfd, content, words):
    for name in ('a.png', 'b.png', 'deep/b.png'):
        (tmp_path / 'deep').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), random_image())
    write_video(tmp_path / 'clip.avi', frames=2)
    (tmp_path / 'boxes.json').write_text(content)
    inputs = [tmp_path / name for name in ('a.png', 'b.png', 'deep/b.png', 'clip.avi')]
    arguments = [*inputs, '--out', tmp_path / 'out', '--boxes', tmp_path / 'boxes.json']
    assert words in refused(capfd, pose, *arguments)
    assert not (tmp_path / 'out').exists()


def test_nobody_in_a_picture_boxes_outside_and_of_frames(pose, tmp_path, capfd):
    images = {name: random_image(64, 96) for name in ('all.png', 'none.png', 'off.png', 'part.png')}
    (tmp_path / 'in').mkdir()
    for name, image in images.items():
        cv2.imwrite(str(tmp_path / 'in' / name), image)
    write_video(tmp_path / 'in/clip.avi', frames=2)
    boxes = {
        'none.png': [], 'off.png': [[96, 0, 120, 20]], 'part.png': [[-20, -20, 30, 90]],
        'clip.avi/000001': [], 'clip.avi/000002': [],
    }  # fmt: skip
    (tmp_path / 'boxes.json').write_text(json.dumps(boxes), encoding='utf-8-sig')
    arguments = [tmp_path / 'in', '--boxes', tmp_path / 'boxes.json', '--out', tmp_path / 'out']
    assert predict(pose, *arguments, '--batch-size', 3) == 1
    error = capfd.readouterr().err
    assert 'off.png of 64x96 cannot be predicted: its box [96.0, 0.0, 120.0, 20.0] lies' in error
    assert 'the video has no frame clip.avi/000002' in error and '5 predicted, 2 could not' in error
    content = json.loads((tmp_path / 'out/keypoints.json').read_text())['images']
    people = {each['image']: [person['box'] for person in each['people']] for each in content}
    assert people == {
        'all.png': [[0, 0, 96, 64]], 'none.png': [], 'part.png': [[-20, -20, 30, 90]],
        'clip.avi/000000': [[0, 0, 64, 48]], 'clip.avi/000001': [],
    }  # fmt: skip
    painted = cv2.imread(str(tmp_path / 'out/overlays/none.png'))
    np.testing.assert_array_equal(painted, images['none.png'])


HOSTILE = {'a': (64, 96), 'dot': (1, 1), 'tall': (10_000, 20), 'wide': (2, 200), 'z': (64, 96)}


@pytest.mark.parametrize('batch_size', [1, 2, 8])
@pytest.mark.parametrize('tiles', [(), ('--tile', '64x64')])
def test_a_picture_that_the_model_cannot_take_is_an_item_of_its_own(
    segmentation, tmp_path, capfd, batch_size, tiles
):
    (tmp_path / 'in').mkdir()
    for name, size in HOSTILE.items():
        cv2.imwrite(str(tmp_path / f'in/{name}.png'), random_image(*size))
    failing = ('dot', 'tall', 'wide') if tiles else ('tall', 'wide')
    good = [name for name in HOSTILE if name not in failing]
    out = tmp_path / 'out'
    arguments = [tmp_path / 'in', '--out', out, '--batch-size', batch_size, *tiles]
    assert predict(segmentation, *arguments) == 1
    error = capfd.readouterr().err
    for name in failing:
        size = 'x'.join(map(str, HOSTILE[name]))
        assert f'error: image {tmp_path}/in/{name}.png of {size} cannot be predicted: ' in error
    assert f'{len(good)} predicted, {len(failing)} could not be read or predicted' in error
    assert files(out) == sorted(f'{kind}/{n}.png' for kind in ('masks', 'overlays') for n in good)
    alone = tmp_path / 'alone'
    for name in good:
        assert predict(segmentation, tmp_path / f'in/{name}.png', '--out', alone, *tiles) == 0
        together, single = (cv2.imread(f'{folder}/masks/{name}.png') for folder in (out, alone))
        # products of a batch are rounded otherwise, which turns a pixel between two equal classes
        assert (together != single).mean() < 0.01


def test_too_little_memory_for_a_batch_or_for_one_picture(
    segmentation, tmp_path, monkeypatch, capfd
):
    (tmp_path / 'in').mkdir()
    for name, width in (('a', 96), ('b', 95), ('large', 500)):
        cv2.imwrite(str(tmp_path / f'in/{name}.png'), random_image(64, width))
    original = Segmenter._run

    def run(self, images):
        if len(images) > 1 or images[0][1].shape[1] == 500:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate')
        return original(self, images)

    monkeypatch.setattr(Segmenter, '_run', run)
    arguments = [tmp_path / 'in', '--out', tmp_path / 'out', '--batch-size', 2]
    arguments += ['--save-as', 'masks']
    assert predict(segmentation, *arguments) == 1
    printed = ''.join(capfd.readouterr())
    assert 'the 2 of a batch were predicted one by one' in printed
    assert 'large.png of 64x500 cannot be predicted: ' in printed and '2 predicted, 1' in printed
    assert files(tmp_path / 'out') == ['masks/a.png', 'masks/b.png']


def test_an_assertion_without_words_is_shown_itself(
    segmentation, images, tmp_path, capfd, monkeypatch
):
    def run(self, images):
        raise AssertionError

    monkeypatch.setattr(Segmenter, '_run', run)
    line = refused(capfd, segmentation, images / 'a.png', '--out', tmp_path / 'out')
    assert line.endswith('AssertionError: raise AssertionError')


@pytest.mark.parametrize('after, done', [(0, 0), (2, 2)])
def test_an_error_of_all_pictures_ends_the_run(
    segmentation, tmp_path, monkeypatch, capfd, after, done
):
    for name in 'abcdef':
        cv2.imwrite(str(tmp_path / f'{name}.png'), random_image())
    original, calls = Segmenter._run, []

    def run(self, images):
        calls.append(images)
        if len(calls) > after:
            raise RuntimeError('CUDA error: unspecified launch failure\nCompile with X')
        return original(self, images)

    monkeypatch.setattr(Segmenter, '_run', run)
    arguments = [tmp_path, '--out', tmp_path / 'out', '--save-as', 'masks']
    assert predict(segmentation, *arguments) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith('error: ')]
    assert lines[-1] == (
        'error: no picture can be predicted, not even a grey one of 256x256: RuntimeError: CUDA '
        'error: unspecified launch failure'
    )
    assert len(files(tmp_path / 'out')) == done and len(calls) <= after + 3


def test_tiles_too_small_for_the_model(segmentation, images, tmp_path, capfd):
    arguments = [images, '--out', tmp_path / 'out', '--tile', '1x1']
    assert 'not even a grey one of 1x1: ' in refused(capfd, segmentation, *arguments)
    assert not (tmp_path / 'out').exists()


KILLED = """
import os, signal, sys
from segformer_plusplus.cli import predict
predict.SAVING = 0.0 if sys.argv[1] == 'KILL' else 1e9
original, done = predict.keypoints_record, []
def record(name, sample):
    if len(done) == 3:
        if sys.argv[1] == 'crash':
            raise RuntimeError('a bug')
        os.kill(os.getpid(), getattr(signal, 'SIG' + sys.argv[1]))
    done.append(name)
    return original(name, sample)
predict.keypoints_record = record
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(predict.main(sys.argv[2:]))
"""


@pytest.mark.parametrize('how, code', [('TERM', 130), ('INT', 130), ('KILL', -9), ('crash', 1)])
def test_keypoints_until_an_end_of_any_kind_are_on_the_disk(pose, tmp_path, how, code):
    (tmp_path / 'in').mkdir()
    for name in 'abcdef':
        cv2.imwrite(str(tmp_path / f'in/{name}.png'), random_image(40, 60))
    command = [
        *pose,
        tmp_path / 'in',
        '--out',
        tmp_path / 'out',
        *('--save-as', 'coco', 'keypoints'),
        *('--device', 'cpu'),
    ]
    done = subprocess.run(
        [sys.executable, '-c', KILLED, how, *map(str, command)], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    content = json.loads((tmp_path / 'out/keypoints.json').read_text())
    assert [each['image'] for each in content['images']] == ['a.png', 'b.png', 'c.png']
    results = json.loads((tmp_path / 'out/coco_keypoints.json').read_text())
    assert [each['file_name'] for each in results] == ['a.png', 'b.png', 'c.png']
    if code == 130:
        assert 'interrupted: 3 predicted' in done.stderr and 'Traceback' not in done.stderr
