"""Synthetic scenes: the same bytes every time, all classes, thin things, readable by mmseg."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from segformer_plusplus.errors import SegformerPlusPlusError
from tools.dataset_generators import layouts
from tools.dataset_generators.layouts import ADE20K_INDEX, write_ade20k, write_cityscapes
from tools.dataset_generators.scene_canvas import CLASSES, IGNORE
from tools.dataset_generators.scenes import draw_scene

SMALL = 128, 256
CLI = Path(__file__).parents[2] / 'tools' / 'dataset_generators' / 'synthetic_scenes.py'


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def scenes():
    return [draw_scene((0, 0, index), (256, 512)) for index in range(10)]


@pytest.fixture(scope='module')
def cityscapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'cityscapes'
    write_cityscapes(root, train=5, val=3, size=SMALL, progress=False)
    return root


def test_same_seed_same_scene():
    first, second = draw_scene(7, SMALL), draw_scene(7, SMALL)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.labels, second.labels)


def test_other_seed_other_scene():
    first, second = draw_scene(7, SMALL), draw_scene(8, SMALL)
    assert not np.array_equal(first.image, second.image)
    assert not np.array_equal(first.labels, second.labels)


def test_global_random_state_plays_no_part():
    np.random.seed(0)
    first = draw_scene(7, SMALL)
    np.random.seed(1)
    assert np.array_equal(first.image, draw_scene(7, SMALL).image)


def test_same_scene_at_another_size():
    large, small = draw_scene(3, (512, 1024)), draw_scene(3, (256, 512))
    shrunk = cv2.resize(large.labels, (512, 256), interpolation=cv2.INTER_NEAREST)
    assert (shrunk == small.labels).mean() > 0.95
    averages = [scene.image.mean((0, 1)) for scene in (large, small)]
    assert np.allclose(*averages, atol=3)


@pytest.mark.parametrize('size', [(64, 128), (65, 129), (127, 333), (300, 300), (512, 129)])
def test_any_size(size):
    scene = draw_scene(1, size)
    assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
    assert scene.labels.shape == size and scene.labels.dtype == np.uint8
    assert (scene.labels == IGNORE).mean() <= 0.05


def test_labels_are_train_ids(scenes):
    allowed = {*range(len(CLASSES)), IGNORE}
    assert all(set(np.unique(scene.labels)) <= allowed for scene in scenes)


def test_all_classes_in_most_scenes(scenes):
    for index, name in enumerate(CLASSES):
        assert np.mean([(scene.labels == index).any() for scene in scenes]) >= 0.8, name


def test_no_class_is_vanishingly_rare(scenes):
    labels = np.stack([scene.labels for scene in scenes])
    for index, name in enumerate(CLASSES):
        assert (labels == index).mean() > 0.003, name


def test_poles_are_thin():
    pole = draw_scene(2, (512, 1024)).labels == CLASSES.index('pole')
    edges = np.diff(np.pad(pole, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    widths = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
    assert len(widths) > 500
    assert np.median(widths) <= 4


def test_splits_differ(cityscapes):
    images = [data for name, data in contents(cityscapes).items() if name.startswith('leftImg8bit')]
    assert len(images) == len(set(images)) == 8


def test_cityscapes_is_read_by_mmseg(cityscapes):
    datasets = pytest.importorskip('mmseg.datasets', exc_type=ImportError)
    dataset = datasets.CityscapesDataset(
        data_root=str(cityscapes),
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=[],
    )
    assert dataset.metainfo['classes'] == CLASSES
    assert len(dataset) == 5
    for index in range(5):
        sample = dataset.get_data_info(index)
        assert cv2.imread(sample['img_path']).shape == (*SMALL, 3)
        labels = cv2.imread(sample['seg_map_path'], cv2.IMREAD_UNCHANGED)
        assert labels.shape == SMALL and labels.dtype == np.uint8


def test_files_hold_the_drawn_scene(cityscapes):
    scene = draw_scene((0, 1, 0), SMALL)
    image = cityscapes / 'leftImg8bit/val/elmburg/elmburg_000000_000019_leftImg8bit.png'
    labels = cityscapes / 'gtFine/val/elmburg/elmburg_000000_000019_gtFine_labelTrainIds.png'
    assert np.array_equal(cv2.imread(str(image))[..., ::-1], scene.image)
    assert np.array_equal(cv2.imread(str(labels), cv2.IMREAD_UNCHANGED), scene.labels)


def test_ade20k_is_read_by_mmseg(tmp_path):
    datasets = pytest.importorskip('mmseg.datasets', exc_type=ImportError)
    write_ade20k(tmp_path, train=2, val=1, size=SMALL, progress=False)
    for split, count in (('training', 2), ('validation', 1)):
        dataset = datasets.ADE20KDataset(
            data_root=str(tmp_path),
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
            pipeline=[],
        )
        assert len(dataset) == count
        sample = dataset.get_data_info(0)
        assert Path(sample['img_path']).name.endswith('_00000001.jpg')
        labels = cv2.imread(sample['seg_map_path'], cv2.IMREAD_UNCHANGED)
        assert set(np.unique(labels)) <= {0, *ADE20K_INDEX.values()}


def test_ade20k_indices_are_mmsegs():
    datasets = pytest.importorskip('mmseg.datasets', exc_type=ImportError)
    names = datasets.ADE20KDataset.METAINFO['classes']
    renamed = {
        'traffic sign': 'signboard',
        'vegetation': 'tree',
        'terrain': 'grass',
        'rider': 'person',
        'motorcycle': 'minibike',
    }
    assert set(ADE20K_INDEX) == set(CLASSES)
    assert ADE20K_INDEX['train'] == 0 and 'train' not in names
    for ours in set(CLASSES) - {'train'}:
        assert names[ADE20K_INDEX[ours] - 1] == renamed.get(ours, ours)


def test_complete_folder_is_left_alone(cityscapes, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in cityscapes.rglob('*')}
    monkeypatch.setattr(layouts, 'draw_scene', lambda *_: pytest.fail('drawn again'))
    write_cityscapes(cityscapes, train=5, val=3, size=SMALL, progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in cityscapes.rglob('*')}


def test_interrupted_run_is_continued(cityscapes, tmp_path, monkeypatch):
    drawn = []

    def interrupted(seed, size):
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(seed)
        return draw_scene(seed, size)

    settings = dict(train=5, val=3, size=SMALL, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(layouts, 'draw_scene', interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_cityscapes(tmp_path, **settings)
    assert not json.loads((tmp_path / 'scenes.json').read_text())['complete']
    write_cityscapes(tmp_path, **settings)
    assert contents(tmp_path) == contents(cityscapes)


@pytest.mark.parametrize('other', [dict(seed=1), dict(size=(64, 128)), dict(train=6), dict(val=2)])
def test_other_settings_are_refused(cityscapes, other):
    before = contents(cityscapes)
    settings = dict(train=5, val=3, size=SMALL, progress=False) | other
    with pytest.raises(SegformerPlusPlusError, match='holds other scenes') as error:
        write_cityscapes(cityscapes, **settings)
    assert str(cityscapes) in str(error.value) and '\n' not in str(error.value)
    assert contents(cityscapes) == before


def test_other_layout_is_refused(cityscapes):
    with pytest.raises(SegformerPlusPlusError, match='layout=cityscapes'):
        write_ade20k(cityscapes, train=5, val=3, size=SMALL, progress=False)


def test_foreign_images_are_refused(tmp_path):
    (tmp_path / 'leftImg8bit').mkdir()
    with pytest.raises(SegformerPlusPlusError, match='not ours'):
        write_cityscapes(tmp_path, train=1, val=0, size=SMALL, progress=False)
    assert not (tmp_path / 'scenes.json').exists()


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(size=(63, 128)), 'size='),
        (dict(size=(1024, 2049)), 'size='),
        (dict(size=(128.0, 256)), 'size='),
        (dict(size=(128, 256, 3)), 'size='),
        (dict(train=-1), 'train=-1'),
        (dict(val=1.5), 'val=1.5'),
        (dict(seed=-1), 'seed=-1'),
        (dict(workers=0), 'workers=0'),
    ],
)
def test_wrong_values_are_named(tmp_path, wrong, message):
    settings = dict(train=1, val=0, size=SMALL, progress=False) | wrong
    with pytest.raises(SegformerPlusPlusError, match=message):
        write_cityscapes(tmp_path, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('seed', [-1, 'one', (0, -1), 1.5])
def test_wrong_seed_is_named(seed):
    with pytest.raises(SegformerPlusPlusError, match='seed='):
        draw_scene(seed, SMALL)


def test_command_line_with_two_workers_writes_the_same_bytes_as_one(cityscapes, tmp_path):
    arguments = ['--train', '5', '--val', '3', '--size', '128x256', '--workers', '2']
    command = [sys.executable, str(CLI), str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CLI.parents[2])
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == contents(cityscapes)


def test_command_line_says_what_is_wrong(cityscapes, capsys):
    main = runpy.run_path(str(CLI))['main']
    assert main([str(cityscapes), '--seed', '9']) == 2
    assert 'holds other scenes' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(cityscapes), '--size', '128'])
    assert "'128' is no shape" in capsys.readouterr().err
