"""The pictures of the demos."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (must precede mmpose)
from tools.paper_tables.pictures import compare_labels, draw_grid, main, read_people, show_person


def test_panels_show_where_predictions_differ():
    image = np.full((64, 128, 3), 90, np.uint8)
    truth = np.zeros((64, 128), np.uint8)
    truth[0] = 255
    second = np.zeros_like(truth)
    second[:32] = 1
    predictions = {'none': np.zeros_like(truth), 'hq': second}
    panels = compare_labels(image, truth, predictions, [(10, 20, 30), (200, 0, 0)])
    name = 'hq against none: 50.0 % of the pixels differ'
    assert list(panels) == ['image', 'ground truth', 'none', 'hq', name]
    assert panels['ground truth'][:2, 0].tolist() == [[0, 0, 0], [10, 20, 30]]
    assert panels['hq'][31:33, 5].tolist() == [[200, 0, 0], [10, 20, 30]]
    different = (panels[name] == (255, 40, 40)).all(-1)
    assert different[:32].all() and not different[32:].any()


def test_the_picture_has_its_panels_and_colours(tmp_path):
    one, two = np.full((40, 80, 3), 200, np.uint8), np.zeros((40, 80, 3), np.uint8)
    rows = [{'a': one, 'b': two}, {'c': one}]
    draw_grid(tmp_path / 'a.png', rows, 'title', {'road': (10, 20, 30)})
    picture = np.asarray(Image.open(tmp_path / 'a.png').convert('RGB'))
    assert picture.shape[1] > 1000
    for colour in ((200, 200, 200), (0, 0, 0), (10, 20, 30)):
        assert (picture == colour).all(-1).any(), colour
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']


def test_the_image_of_a_median_change_is_compared(tmp_path, capfd):
    """Of three images, HQ changes none, half and all pixels."""
    data = tmp_path / 'data'
    folders = [tmp_path / name for name in ('none', 'hq', 'downsampling')]
    for number, changed in enumerate((0, 32, 16)):
        name = f'a_{number}_leftImg8bit.png'
        labels = name.replace('_leftImg8bit', '_gtFine_labelTrainIds')
        files = [data / 'leftImg8bit/val/a' / name, data / 'gtFine/val/a' / labels]
        for path in (*files, *(folder / 'a' / name for folder in folders)):
            path.parent.mkdir(parents=True, exist_ok=True)
            array = np.zeros((32, 64, 3) if path == files[0] else (32, 64), np.uint8)
            if path.parent.parent.name == 'hq':
                array[:changed] = 10  # sky
            Image.fromarray(array).save(path)
    argv = [str(tmp_path / 'a.png'), str(data), *(f'{each.name}={each}' for each in folders)]
    assert main(['comparison', *argv]) == 0
    picture = np.asarray(Image.open(tmp_path / 'a.png').convert('RGB'))
    sky, different = ((picture == rgb).all(-1).sum() for rgb in ((70, 130, 180), (255, 40, 40)))
    assert 0.8 < sky / different < 1.25  # half of a panel each
    for path in folders[0].glob('a/*'):
        path.unlink()
    assert main(['comparison', *argv]) == 2
    assert 'no predictions in' in capfd.readouterr().err


def test_people_with_their_skeletons():
    pytest.importorskip('xtcocotools')
    from mmengine.structures import InstanceData
    from mmpose.structures import PoseDataSample

    from segformer_plusplus.inference.pose import SkeletonPainter

    limbs = {0: dict(link=('a', 'b'), id=0, color=[255, 40, 40])}
    limbs[1] = dict(link=('b', 'c'), id=1, color=[40, 255, 40])
    points = [dict(name=n, id=i, color=[0, 0, 255], type='', swap='') for i, n in enumerate('abc')]
    from mmpose.datasets.datasets.utils import parse_pose_metainfo

    meta = parse_pose_metainfo(
        dict(dataset_name='x', keypoint_info=dict(enumerate(points)), skeleton_info=limbs,
             joint_weights=[1.0] * 3, sigmas=[1.0] * 3)
    )  # fmt: skip
    predicted = np.array([[[20, 24], [40, 53], [30, 30]]], np.float32)
    sample = PoseDataSample(pred_instances=InstanceData(
        keypoints=predicted, bboxes=np.array([[10.0, 10, 50, 70]])
    ))  # fmt: skip
    truth = np.array([[20, 20, 2], [40, 60, 2], [0, 0, 0]])
    image = np.full((80, 60, 3), 90, np.uint8)
    box = np.array([10, 10, 50, 70])
    panels = show_person(image, box, truth, {'hq': sample}, SkeletonPainter(meta, 0.5))
    # the longer side of the box is 60: 4 pixels are within 6, 7 are not
    assert list(panels) == ['ground truth', 'hq: 1 of 2 within 10 %']
    for panel in panels.values():
        assert panel.shape == (78, 58, 3)  # a margin of 9 pixels
        assert (panel == (255, 40, 40)).all(-1).any(), 'the limb between annotated keypoints'
        assert not (panel == (40, 255, 40)).all(-1).any(), 'a limb to one that is not annotated'
    assert (image == 90).all()


def test_people_are_spread_over_the_validation_set(tmp_path):
    (tmp_path / 'annotations').mkdir()
    content = dict(
        images=[dict(id=n, file_name=f'{n}.jpg') for n in range(7)],
        annotations=[dict(image_id=n) for n in range(7)],
    )
    (tmp_path / 'annotations/val_jump.json').write_text(json.dumps(content))
    assert [path.name for path, _ in read_people(tmp_path)] == ['0.jpg', '2.jpg', '4.jpg']
