"""segformer-plusplus predict: what it writes for every kind of input, and what it refuses."""

import json
import os

import cv2
import numpy as np
import pytest
from inference.test_sources import random_image, write_video
from PIL import Image

pytest.importorskip('mmseg')

from segformer_plusplus.cli.predict import main
from segformer_plusplus.inference import Segmenter
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
    overlay = cv2.imread(str(out / 'overlays/deep/b.png'))
    colours = segmenter.palette[mask][..., ::-1]
    np.testing.assert_allclose(overlay, (image.astype(float) + colours) / 2, atol=0.5)


def test_masks_alone_in_tiles(segmentation, tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), random_image(100, 300))
    arguments = ['--out', tmp_path / 'out', '--tile', '64x96', '--overlap', 16, '--no-overlays']
    assert predict(segmentation, tmp_path / 'x.png', *arguments) == 0
    assert files(tmp_path / 'out') == ['masks/x.png']
    tiled = Segmenter(*segmentation, device='cpu', tile=(64, 96), overlap=16)
    expected = tiled(tmp_path / 'x.png').pred_sem_seg.data[0].numpy()
    mask = np.asarray(Image.open(tmp_path / 'out/masks/x.png'))
    assert (mask == expected).mean() > 0.999


def test_a_video_becomes_a_video(segmentation, tmp_path):
    write_video(tmp_path / 'clip.avi', frames=4)
    assert predict(segmentation, tmp_path / 'clip.avi', '--out', tmp_path / 'out') == 0
    masks = [f'masks/clip.avi/{n:06d}.png' for n in range(4)]
    assert files(tmp_path / 'out') == [*masks, 'overlays/clip.mp4']
    video = cv2.VideoCapture(str(tmp_path / 'out/overlays/clip.mp4'))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and video.get(cv2.CAP_PROP_FPS) == 10
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (64, 48)


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
    arguments = [tmp_path / 'clip.avi', '--out', tmp_path / 'out', '--no-masks']
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
        (['{image}', '--opacity', '2'], '--opacity is 2.0'),
        (['{image}', '--overlap', '3'], '--overlap goes with --tile'),
        (['{image}', '--tile', '64x64', '--overlap', '64'], 'overlap is 64'),
        (['{image}', '--boxes', 'x'], '--boxes is for poses'),
        (['{image}', '--no-masks', '--no-overlays'], 'nothing to write'),
        (['{image}', '--device', 'meat'], '--device meat: '),
        (['{image}', '--token-merging', 'hg'], 'hg'),
    ],
)
def test_calls_that_are_refused(segmentation, images, tmp_path, capfd, arguments, message):
    out = tmp_path / 'out'
    words = [word.replace('{image}', str(images / 'a.png')) for word in arguments]
    assert message in refused(capfd, segmentation, *words, '--out', out)
    assert not out.exists()


@pytest.mark.parametrize('content', ['[1]', 'no json', '{"a.png": [[1, 2]]}'])
def test_boxes_that_are_refused(pose, tmp_path, capfd, content):
    cv2.imwrite(str(tmp_path / 'a.png'), random_image())
    (tmp_path / 'boxes.json').write_text(content)
    arguments = [tmp_path / 'a.png', '--out', tmp_path / 'out', '--boxes', tmp_path / 'boxes.json']
    assert 'boxes' in refused(capfd, pose, *arguments)
